"""
Boxes tracked through a clip
============================

A siamese network sees two crops, where an object was and where it may be now, and regresses its
box. It is told nothing but the boxes of the first frame. Dotted boxes are true.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import flowmatch as fm
from flowmatch.flow.synthetic import Layer, Motion, Scene, translate

y, x = np.mgrid[-1:1:110j, -1:1:110j]
disc = np.uint8(255 * (x**2 + y**2 < 1))
centres, layers = np.array([(70, 75), (400, 230)]), [Layer(data.rocket(), np.eye(3))]
for picture, centre, motion in (  # pixels per frame, radians per frame, change of size
    (data.chelsea()[30:250:2, 125:345:2], centres[0], ((8, 0), 0.03, 0.006)),
    (data.coffee()[60:280:2, 200:420:2], centres[1], ((-7, 1), -0.03, -0.008)),
):
    layers.append(Layer(picture, translate(*(centre - 54.5)), Motion(centre, *motion), disc))
scene = Scene((320, 480), tuple(layers), Motion(translation=(2, 0)))
views = [scene.render(t) for t in range(31)]
clip = [view.image.round().astype(np.uint8) for view in views]
tracks = fm.track_boxes(clip, np.column_stack([centres - 54.5, (110, 110), (110, 110)]))

figure, axes = plt.subplots(2, 2, figsize=(9, 6.3), layout="constrained")
for axis, t in zip(axes.flat, (0, 10, 20, 30), strict=True):
    axis.imshow(clip[t])
    for k, colour in enumerate(("gold", "deepskyblue")):
        side = np.exp(layers[k + 1].motion.zoom * t) * 110
        true = *((scene.pose(k + 1, t) @ (54.5, 54.5, 1))[:2] - side / 2), side, side
        for (*corner, width, height), line in ((tracks.boxes[t, k], "-"), (true, ":")):
            box = plt.Rectangle(corner, width, height, fill=False, ec=colour, ls=line, lw=2)
            axis.add_patch(box)
    axis.set(title=f"frame {t}", xticks=[], yticks=[])
