"""
Comparison of patch stacks
==========================

Zagoruyko and Komodakis' siamese network takes two patches and answers how similar they are. Here
it compares ten points of a photo with the same points in a darker, noisy copy, all with all.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import flowmatch as fm

photo, noise = data.astronaut(), np.random.default_rng(0).normal(0, 8, (512, 512, 3))
copy = (200 * (photo / 255) ** 2 + noise).clip(0, 255).astype(np.uint8)
network = fm.load("matching/siam")
detected = fm.matching.detect_keypoints(photo, keypoints=600)
large = np.flatnonzero((detected.scale > 3) & (detected.scale < 8))[::4][:10]
keypoints = fm.matching.Keypoints(*(values[large] for values in detected))
size, reach = network.patch_size, network.magnification
first, second = (
    fm.matching.extract_patches(image, keypoints, size, magnification=reach)  # [10, 1, 64, 64]
    for image in (photo, copy)
)
scores = fm.matching.compare_all_patches(first, second, model=network)  # [10, 10]

layout = [[".", "copy"], ["photo", "scores"]]
ratios = {"width_ratios": [1, 10], "height_ratios": [1, 10]}
figure, axes = plt.subplot_mosaic(layout, figsize=(7, 7), layout="constrained", **ratios)
axes["photo"].imshow(first.reshape(-1, size).numpy(), cmap="gray", aspect="auto")
axes["copy"].imshow(np.hstack(second[:, 0].numpy()), cmap="gray", aspect="auto")
axes["scores"].imshow(scores.numpy(), aspect="auto")
for (i, j), score in np.ndenumerate(scores.numpy()):
    color = "black" if score > -2 else "white"
    axes["scores"].text(j, i, f"{score:.1f}", ha="center", va="center", color=color)
for axis in axes.values():
    axis.set(xticks=[], yticks=[])
axes["copy"].set_title("similarity of patches of the photo (left) and of its copy (top)")
