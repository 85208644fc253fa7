"""
Identities never seen in training
=================================

A network learns from parts of five photos. Of a sixth, 20 parts are enrolled by four views each, at
a threshold (the dot) that accepts 1 % of their false pairs. The last ten queries are strangers.
"""

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from skimage import data

import flowmatch as fm

rng, learn, names = np.random.default_rng(0), fm.metric_learning, tuple(map(str, range(181)))
views = np.zeros((181 * 20, 32, 32, 3), np.uint8)  # the last 20 remain black
photos = data.immunohistochemistry(), data.rocket(), data.chelsea(), data.coffee()
for i, photo in enumerate([*photos, data.stereo_motorcycle()[0], data.astronaut()]):
    places = cv2.goodFeaturesToTrack(np.float32(photo.mean(axis=2)), 30, 0.001, 40)[:, 0]
    for k, place in enumerate(places.repeat(20, axis=0)):  # 20 views of 30 parts
        turn = cv2.getRotationMatrix2D(place, rng.uniform(-20, 20), rng.uniform(0.4, 0.5))
        turn[:, 2] += rng.uniform(13, 19, 2) - place
        views[600 * i + k] = cv2.warpAffine(photo, turn, (32, 32)) * rng.uniform(0.4, 1)
images = learn.data.images.LabelledImages(views, np.arange(3620) // 20, names)
recipe = learn.Recipe(backbone="tiny", dimension=32, size=32, classes=16, samples_per_class=4)
network = learn.train_embedding(recipe, images.select_classes(range(150)))  # triplet loss
x, part = learn.embed(network, images, 32)[3000:3600], torch.arange(3000, 3600) // 20
enrolled, queries = (part < 170) & (torch.arange(600) % 20 < 4), torch.arange(600) % 20 >= 4
known = learn.enrol(x[enrolled], part[enrolled], names, false_accept_rate=0.01)
distances = fm.ops.pairwise_distance(x[queries], x[enrolled], "cosine").flatten()
curve = learn.roc(distances, (part[queries, None] == part[enrolled]).flatten())
place = int((curve.threshold <= known.threshold).sum()) - 1
shown = [*views[3004:3600:20], *(views[20 * int(a.name or 180)] for a in known.query(x[4::20]))]
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
left.imshow(np.reshape(shown, (2, 3, 10, 32, 96)).transpose(1, 0, 3, 2, 4).reshape(192, 320, 3))
left.set(xticks=[], yticks=range(16, 192, 32), yticklabels=["query", "taken for"] * 3)
right.plot(curve.false_accept_rate, curve.true_accept_rate, marker="o", markevery=[place])
right.set(xscale="log", xlabel="false accept rate", ylabel="true accept rate")
