"""
Flow of a pair
==============

Two frames in, the motion of every pixel out. The frames are a stereo pair, so the true motion is
known: each pixel moves to the left by its disparity, up to 60 pixels. The hue shows the direction
of the motion, the saturation its length.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import flowmatch as fm

left, right, disparity = data.stereo_motorcycle()
flow = fm.estimate_flow(left, right)  # float32 [H, W, 2], pixels

truth = np.stack([-disparity, np.zeros_like(disparity)], axis=-1)
truth[~np.isfinite(disparity)] = np.nan  # unknown
error = np.hypot(*(flow - truth).transpose(2, 0, 1))
pictures = {
    "first frame": left,
    "estimated flow": fm.draw.flow_to_image(flow, max_flow=60),
    "true flow; black is unknown": fm.draw.flow_to_image(truth, max_flow=60),
    f"error: mean {np.nanmean(error):.2f}, median {np.nanmedian(error):.2f} pixels": error,
}
plt.figure(figsize=(10, 6.9), layout="constrained")
for place, (title, picture) in enumerate(pictures.items(), start=221):
    axis = plt.subplot(place, title=title, xticks=[], yticks=[])
    shown = axis.imshow(picture, cmap="magma", vmax=8)
plt.colorbar(shown, label="pixels", shrink=0.8)
