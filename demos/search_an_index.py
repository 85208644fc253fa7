"""
Search in an index of pictures
==============================

An index describes the pictures of a folder, each by one vector. The query is a rotated, smaller
cut-out of one of them; the index finds it again, and a homography confirms it.
"""

import tempfile
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
from skimage import data
from sklearn.datasets import load_sample_images

import flowmatch as fm

names = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "gravel", "rocket")
photos = {f"{name}.png": getattr(data, name)() for name in names}
photos["china.png"], photos["flower.png"] = load_sample_images().images
turn = cv2.getRotationMatrix2D((300, 200), 20, 0.8)
query = cv2.warpAffine(photos["china.png"], turn, (640, 427))[100:350, 150:480]

with tempfile.TemporaryDirectory() as folder:
    for name, photo in photos.items():
        fm.io.write_image(Path(folder, name), photo)
    index = fm.build_index(folder, model="rootsift")
    results = fm.search(index, query, verify=True, count=5)

figure, axes = plt.subplots(2, 3, figsize=(9, 5), layout="constrained")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
axes[0, 0].imshow(query)
axes[0, 0].set_title("query", weight="bold")
for axis, result in zip(axes.flat[1:], results, strict=True):
    axis.imshow(photos[result.name], cmap="gray")
    axis.set_title(f"{result.score:.2f}, {result.inliers} inliers")
