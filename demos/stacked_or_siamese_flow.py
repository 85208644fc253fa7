"""
FlowNetS and FlowNetC
=====================

FlowNetS stacks both frames and leaves their comparison to convolutions; FlowNetC has two branches
with shared weights and a correlation layer. The second frame is the first one turned and enlarged,
so that the true motion is known. The hue shows the direction of the motion, the saturation its
length.
"""

import cv2
import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import flowmatch as fm

first = cv2.resize(data.coffee(), (512, 320), interpolation=cv2.INTER_AREA)
matrix = cv2.getRotationMatrix2D((256, 160), 5, 1.06)
second = cv2.warpAffine(first, matrix, (512, 320), borderMode=cv2.BORDER_REFLECT)

x, y = np.meshgrid(np.arange(512), np.arange(320))
truth = np.stack([x, y, np.ones_like(x)], axis=-1) @ matrix.T - np.stack([x, y], axis=-1)
pictures = {"first frame": first, "true flow": fm.draw.flow_to_image(truth, max_flow=32)}
for name in ("flownets-thin", "flownetc-thin"):
    flow = fm.estimate_flow(first, second, model=name, options=fm.FlowOptions(quality="fast"))
    error = np.hypot(*(flow - truth).transpose(2, 0, 1)).mean()
    title = f"{name}: mean error {error:.2f} pixels"
    pictures[title] = fm.draw.flow_to_image(flow, max_flow=32)
plt.figure(figsize=(10, 6.8), layout="constrained")
for place, (title, picture) in enumerate(pictures.items(), start=221):
    plt.subplot(place, title=title, xticks=[], yticks=[]).imshow(picture)
