"""
Digits in two dimensions
========================

A siamese network maps handwritten digits to points of a plane: the contrastive loss pulls digits
of one class together and pushes others apart. The points are digits that were not trained on.
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

network = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
    nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, 2),
)  # fmt: skip
loss = fm.metric_learning.make_loss("hadsell", classes=10, dimension=2, margin=4.0)
optimizer = torch.optim.Adam(network.parameters(), 0.001)
for _ in range(600):
    batch = training[torch.randint(len(training), (128,))]
    optimizer.zero_grad()
    loss(network(images[batch]), labels[batch]).backward()
    optimizer.step()
with torch.no_grad():
    points = network(images[test])
scores = fm.metric_learning.retrieval_scores(points, labels[test])
plt.figure(figsize=(7.5, 6.5), layout="constrained")
plt.scatter(*points.T, c=labels[test], cmap="tab10", vmin=-0.5, vmax=9.5, s=14)
plt.colorbar(ticks=range(10), label="digit")
plt.title(f"nearest neighbour of the same class: {scores.recall[1]:.1%}")
