"""
Training pairs from a video
===========================

Learning without labels: objects that move against the background are followed by optical flow, and
the patches of one track show the same object. Each row is a track that was found in the clip.
"""

import cv2
import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import flowmatch as fm
from flowmatch.flow.synthetic import Layer, Motion, Scene, translate

y, x = np.mgrid[-1:1:90j, -1:1:90j]
disc = np.uint8(255 * (x**2 + y**2 < 1))
layers = [Layer(data.gravel()[..., None].repeat(3, axis=2), np.eye(3))]
for picture, centre, motion in (  # pixels per frame, radians per frame, change of size
    (data.chelsea()[50:230:2, 135:315:2], (60, 60), ((7, 1), 0.04)),
    (data.coffee()[60:240:2, 220:400:2], (410, 240), ((-6, 0.5), -0.05)),
    (data.astronaut()[10:190:2, 130:310:2], (70, 240), ((1, -5), 0.03)),
):
    place = translate(*np.subtract(centre, 44.5))
    layers.append(Layer(picture, place, Motion(centre, *motion), disc))
scene = Scene((320, 480), tuple(layers), Motion((240, 160), (1, 0.5), 0.002))
clip = [scene.render(t).image.round().astype(np.uint8) for t in range(31)]
dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def flow(first, second):
    return dis.calc(first[..., 1].copy(), second[..., 1].copy(), None)


tracks = fm.selfsupervised.find_tracks(enumerate(clip), flow, stride=3)
rows = np.vstack([np.hstack([*track.patches.values()][:6]) for track in tracks])
plt.figure(figsize=(12, 3.8), layout="constrained")
for place, picture in ((121, clip[15]), (122, rows)):
    plt.subplot(place, xticks=[], yticks=[]).imshow(picture)
