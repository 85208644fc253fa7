"""Flow of a rendered clip and of a real pair, both with known truth, beside OpenCV's DIS."""

from pathlib import Path

import numpy as np
from skimage import data

from flowmatch import flow
from flowmatch.cli import main as flowmatch
from flowmatch.draw import error_map, flow_to_image, side_by_side
from flowmatch.flow.baselines import dis
from flowmatch.flow.synthetic.scene import Layer, Motion, Scene, translation_matrix
from flowmatch.flow.synthetic.textures import sample_outline
from flowmatch.io import write_flow, write_image

OUT = Path("demo_out")


def clip() -> Scene:
    """A cat, a cup and a rocket pass before an astronaut; the camera pans, turns and zooms."""
    rng = np.random.default_rng(4)
    layers = [Layer(data.astronaut(), translation_matrix(-60, -20) @ np.diag([1.2, 1.2, 1]))]
    for picture, size, motion in (
        (data.chelsea()[:, 100:400], 170, Motion((110, 190), (6, 0.6), 0.012)),
        (data.coffee()[50:350, 150:450], 150, Motion((380, 210), (-5, -2), -0.02, 0.008)),
        (data.rocket()[60:360, 180:480], 110, Motion((300, 60), (-2, 5), 0.03)),
    ):
        fit = np.diag([size / 300, size / 300, 1]) @ translation_matrix(-150, -150)
        layers.append(Layer(picture, translation_matrix(*motion.centre) @ fit, motion, sample_outline(rng, 300)))
    return Scene((320, 480), tuple(layers), Motion((240, 160), (-2.5, 1.2), 0.004, 0.006))


scene = clip()
views = [scene.render(t) for t in range(26)]
frames = [np.rint(view.image).astype(np.uint8) for view in views]
left, right, disparity = data.stereo_motorcycle()
leftwards = np.where(np.isfinite(disparity), -disparity, np.nan)  # where the truth is known
pairs = {f"clip{t:02d}": (*frames[t : t + 2], scene.flow(views[t], t, t + 1)[0]) for t in (0, 12)}
pairs["motorcycle"] = (left, right, np.stack([leftwards, 0 * leftwards], axis=-1))
rows, model = [], flow.load("default")
options = flow.FlowOptions(with_dis=True, refine=True)
for name, (first, second, truth) in pairs.items():
    (OUT / "truth" / name).mkdir(parents=True, exist_ok=True)
    write_image(OUT / f"truth/{name}/frame1.png", first)
    write_image(OUT / f"truth/{name}/frame2.png", second)
    write_flow(OUT / f"truth/{name}/flow.flo", truth)
    ours = flow.estimate_flow(first, second, model=model, options=options)
    top = np.nanmax(np.hypot(*truth.T))
    errors = [error_map(field, truth, top / 4) for field in (ours, dis(first, second))]
    rows += [first, flow_to_image(truth, top), flow_to_image(ours, top), *errors]
(OUT / "clip").mkdir(exist_ok=True)
for t, frame in enumerate(frames):
    write_image(OUT / f"clip/{t:02d}.png", frame)
for command in (f"flow {OUT}/clip {OUT}/flow --video --with-dis --refine --overwrite",
                f"eval flow {OUT}/truth --with-dis --refine"):  # fmt: skip
    print(f"\n$ flowmatch {command}", flush=True)
    if flowmatch(command.split()) != 0:
        raise SystemExit("the demo failed")
labels = ["first frame", "true flow", "flowmatch", "error of flowmatch", "error of DIS"]
write_image(OUT / "overview.png", side_by_side(*rows, labels=labels * len(pairs), columns=5))
print(f"\nvideo: {OUT / 'flow/flow.mp4'}\noverview: {OUT / 'overview.png'}")
