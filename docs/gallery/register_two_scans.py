"""
Two scans registered
====================

Two scans of a scene, each in a coordinate system of its own, are laid on each other without an
initial guess. They are overlapping halves of a depth map, from different points and with noise.
"""

import cv2
import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import flowmatch as fm

photo, _, disparity = data.stereo_motorcycle()
y, x = np.nonzero(np.isfinite(disparity))
z = 994.978 * 0.193001 / (disparity[y, x] + 31.086)  # metres, by the calibration of the cameras
points = np.stack([(x - 311.193) * z / 994.978, (y - 254.877) * z / 994.978, z], axis=1)
points += np.random.default_rng(0).normal(0, 0.004, points.shape)

halves = np.flatnonzero(x < 480)[::6], np.flatnonzero(x > 240)[1::6]
target, source = (points[half] for half in halves)
source = source @ cv2.Rodrigues(np.array([0.1, 0.2, -0.5]))[0].T + [0.5, -0.3, 0.3]
result = fm.register_scans(source, target, model="fpfh")
moved = source @ result.motion[:3, :3].T + result.motion[:3, 3]

gray = photo[y, x].mean(axis=1, keepdims=True) / 255
tints = gray[halves[0]] ** 0.6 * [1, 0.65, 0.2], gray[halves[1]] ** 0.6 * [0.25, 0.75, 1]
view = cv2.Rodrigues(np.array([0.2, 0.15, 0]))[0]  # look from the left and from above
figure, axes = plt.subplots(2, 1, figsize=(8, 9), layout="constrained")
for axis, cloud, title in zip(axes, (source, moved), ("before", "after"), strict=True):
    drawn = np.vstack([target, cloud]) @ view.T
    order = drawn[:, 2].argsort()[::-1]
    axis.scatter(*drawn[order, :2].T, c=np.vstack(tints)[order], s=3, linewidths=0)
    axis.set(title=title, aspect="equal", xticks=[], yticks=[], facecolor="black")
    axis.invert_yaxis()
axes[1].set_title(f"after: {result.reason.split(';')[0]}")
