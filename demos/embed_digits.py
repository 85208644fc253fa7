"""
Digits in two dimensions
========================

A siamese network maps handwritten digits to points of a plane. The contrastive loss of Hadsell et
al. compares distances: a class becomes a place. The triplet loss of FaceNet compares normalised
points: a class becomes a direction. The points are digits that were not trained on.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import flowmatch as fm

torch.manual_seed(0)
digits = load_digits()
images = torch.from_numpy(digits.images).float()[:, None] / 16  # [1797, 1, 8, 8]
labels = torch.from_numpy(digits.target)
training, test = torch.randperm(len(images)).split([1200, 597])
figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
for axis, name, margin in zip(axes, ("hadsell", "triplet"), (4.0, 0.2), strict=True):
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, 2),
    )  # fmt: skip
    loss = fm.metric_learning.make_loss(name, classes=10, dimension=2, margin=margin)
    optimizer = torch.optim.Adam(network.parameters(), 0.002)
    for _ in range(500):
        batch = training[torch.randint(len(training), (64,))]
        optimizer.zero_grad()
        loss(network(images[batch]), labels[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        points = network(images[test])
    scores = fm.metric_learning.retrieval_scores(points, labels[test], metric=loss.metric)
    shown = axis.scatter(*points.T, c=labels[test], cmap="tab10", vmin=-0.5, vmax=9.5, s=14)
    axis.set_title(f"{name}: nearest neighbour of the same class {scores.recall[1]:.1%}")
plt.colorbar(shown, ticks=range(10), label="digit")
