"""
A panorama of four photos
=========================

Four photos, taken by a camera that turns, in any order. Their overlaps are found, the cameras
estimated, and the photos blended into one picture.
"""

import cv2
import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import flowmatch as fm

scene = data.stereo_motorcycle()[0]  # [500, 741, 3]
H, W = scene.shape[:2]
lens = np.array([[700, 0, W / 2], [0, 700, H / 2], [0, 0, 1]])  # of the camera that saw the scene
view = np.array([[650, 0, 150], [0, 650, 150], [0, 0, 1]])  # of the camera that turns


def photo(right, down):
    turn = cv2.Rodrigues(np.array([down, -right, 0.05]))[0]
    return cv2.warpPerspective(scene, view @ turn @ np.linalg.inv(lens), (300, 300))


photos = [photo(0.2, -0.04), photo(-0.2, 0.05), photo(0.07, 0.05), photo(-0.07, -0.05)]
panorama = fm.stitch_photos(photos)

figure = plt.figure(figsize=(8, 8), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=[1, 2])
for axis, picture in zip(top.subplots(1, len(photos)), photos, strict=True):
    axis.imshow(picture)
    axis.set(xticks=[], yticks=[])
axis = bottom.subplots()
axis.imshow(panorama.image)
axis.set(title="panorama of the four photos", xticks=[], yticks=[])
