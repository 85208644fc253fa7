"""
Matches of two photos
=====================

Keypoints, descriptors by a network, nearest neighbours and a robust homography in one call. The
second photo is a view of the first one from another side, twice as dark.
"""

import cv2
import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import flowmatch as fm

photo = data.coffee()  # [400, 600, 3]
corners = np.float32([[0, 0], [599, 0], [599, 399], [0, 399]])
seen_at = np.float32([[110, 60], [480, 10], [560, 390], [30, 330]])
view = cv2.warpPerspective(photo, cv2.getPerspectiveTransform(corners, seen_at), (600, 400)) // 2

options = fm.MatchOptions(geometry="homography", keypoints=1500)
result = fm.match_images(photo, view, options=options)
first, second = result.points(inliers=True)  # [K, 2] each, pixels

found = cv2.perspectiveTransform(corners[None], result.matrix)[0]
error = np.linalg.norm(found - seen_at, axis=1).mean()
picture = fm.draw.draw_matches(photo, view, *result.points(), result.inliers, most=150)
plt.figure(figsize=(10, 3.7), layout="constrained")
plt.imshow(picture)
plt.plot(*(np.vstack([found, found[:1]]) + [picture.shape[1] - 600, 0]).T, color="yellow")
plt.title(f"{len(first)} inliers of {len(result.matches)}; corners within {error:.1f} pixels")
plt.axis("off")
