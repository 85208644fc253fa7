"""
Alignment of two pictures
=========================

The second picture is a warped negative of the first: keypoint descriptors find nothing in common.
A network compares all places with all, and a transform is fitted to the places that agree.
"""

import cv2
import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import flowmatch as fm

first = data.chelsea()  # [300, 451, 3]
affine = np.float32([[0.85, -0.15, 60], [0.2, 0.8, 0]])
second = 255 - cv2.warpAffine(first, affine, (451, 300), borderMode=cv2.BORDER_REFLECT)

alignment = fm.align_images(first, second)
corners = np.array([[50, 50], [400, 50], [400, 250], [50, 250]])
error = np.linalg.norm(
    alignment.points(corners) - (corners @ affine[:, :2].T + affine[:, 2]), axis=1
)

pictures = {
    "first picture": first,
    "second picture": second,
    "second picture, warped onto the first": alignment.warp(second),
    "checkerboard of both": fm.draw.checkerboard(first, 255 - alignment.warp(second)),
}
plt.figure(figsize=(9, 6.6), layout="constrained")
for place, (title, picture) in enumerate(pictures.items(), start=221):
    plt.subplot(place, title=title, xticks=[], yticks=[]).imshow(picture)
plt.suptitle(f"error of four points: {error.mean():.1f} pixels")
