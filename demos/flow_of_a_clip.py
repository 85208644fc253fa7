"""
Flow of a clip as a video
=========================

A rendered clip goes through `flowmatch flow`, which writes files and a video, and through
`flowmatch eval flow`, which prints the errors beside those of OpenCV's DIS.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import flowmatch as fm
from flowmatch.cli import main
from flowmatch.flow.synthetic import Layer, Motion, Scene, sample_outline, translate

rng, layers = np.random.default_rng(1), [Layer(data.astronaut(), np.eye(3))]
for picture, motion in (  # centre, pixels per frame, radians per frame, change of size
    (data.chelsea()[:300:2, 100:400:2], Motion((110, 190), (6, 0.6), 0.012)),
    (data.coffee()[50:350:2, 150:450:2], Motion((380, 210), (-5, -2), -0.02, 0.008)),
    (data.rocket()[60:360:2, 180:480:2], Motion((300, 60), (-2, 5), 0.03)),
):
    place = translate(*np.subtract(motion.centre, 75))
    layers.append(Layer(picture, place, motion, sample_outline(rng, 150)))
scene = Scene((320, 480), tuple(layers), Motion((240, 160), (-2.5, 1.2), 0.004, 0.006))
frames, truths = Path("demo_out/clean/clip"), Path("demo_out/flow/clip")  # as in MPI-Sintel
[folder.mkdir(parents=True, exist_ok=True) for folder in (frames, truths)]
for t in range(13):
    now = scene.render(t)
    fm.io.write_image(frames / f"frame_{t:04d}.png", now.image.round().astype(np.uint8))
    if t < 12:
        fm.io.write_flow(truths / f"frame_{t:04d}.flo", scene.flow(now, t, t + 1)[0])
flow = f"flow {frames} -o demo_out/estimate --video --overwrite"
for command in (flow, "eval flow demo_out"):
    print(f"$ flowmatch {command}", flush=True)
    assert main(command.split()) == 0
video = np.vstack([*fm.io.read_frames("demo_out/estimate/flow.mp4")][:12:4])
plt.figure(figsize=(8, 8), layout="constrained").add_subplot(xticks=[], yticks=[]).imshow(video)
