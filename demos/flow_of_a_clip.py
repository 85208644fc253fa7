"""Flow of a rendered clip and of a real pair, both with known truth, beside OpenCV's DIS."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from skimage import data

from flowmatch.draw import draw_arrows, error_map, flow_to_image, side_by_side
from flowmatch.flow.baselines import dis
from flowmatch.flow.metrics import epe_map
from flowmatch.flow.scene import Layer, Motion, Scene, shift
from flowmatch.flow.textures import outline
from flowmatch.io.flow import read_flow, write_flow
from flowmatch.io.image import read_image, write_image

OUT = Path("demo_out")
FRAMES = 25


def clip() -> Scene:
    """A cat and an astronaut pass over a cup of coffee, under a camera that pans and zooms."""
    rng = np.random.default_rng(4)
    objects = [
        (data.astronaut()[:300, 80:380], 0.55, (120, 150), Motion((120, 150), (5, 0.6), 0.012)),
        (data.chelsea()[:, 80:380], 0.5, (380, 190), Motion((380, 190), (-4, -1), -0.02, 0.008)),
        (data.hubble_deep_field()[:300, :300], 0.25, (250, 60), Motion((250, 60), (1, 6), 0.05)),
    ]
    layers = [Layer(data.coffee(), np.diag([1.25, 1.25, 1.0]) @ shift(-20, -40))]
    for texture, scale, centre, motion in objects:
        size = min(texture.shape[:2])
        place = shift(*centre) @ np.diag([scale, scale, 1.0]) @ shift(-size / 2, -size / 2)
        layers.append(Layer(texture[:size, :size], place, motion, outline(rng, size)))
    return Scene((320, 480), tuple(layers), Motion((240, 160), (-1.5, 0.8), 0.002, 0.004))


def main() -> None:
    """Render, estimate, compare, draw."""
    scene, left_right = clip(), data.stereo_motorcycle()
    for folder in ("clip", "truth", "pair"):
        (OUT / folder).mkdir(parents=True, exist_ok=True)
    for t in range(FRAMES):
        view = scene.view(t)
        write_image(OUT / f"clip/{t:06d}.png", np.rint(view.image).astype(np.uint8))
        write_flow(OUT / f"truth/{t:06d}.flo", scene.flow(view, t, t + 1)[0])
    disparity = np.where(np.isfinite(left_right[2]), -left_right[2], np.nan)
    write_flow(OUT / "truth/pair.flo", np.stack([disparity, disparity * 0], axis=-1))
    for name, image in zip(("left", "right"), left_right[:2], strict=True):
        write_image(OUT / f"pair/{name}.png", image)
    for words in (f"{OUT}/clip {OUT}/flow --video", f"{OUT}/pair {OUT}/pair_flow"):
        print(f"$ flowmatch flow {words} --overwrite", flush=True)
        command = [sys.executable, "-m", "flowmatch", "flow", *words.split(), "--overwrite"]
        subprocess.run(command, check=True)

    clip_pairs = [[f"clip/{t:06d}.png", f"clip/{t + 1:06d}.png", f"flow/{t:06d}.flo",
                   f"truth/{t:06d}.flo"] for t in range(FRAMES - 1)]  # fmt: skip
    real = ["pair/left.png", "pair/right.png", "pair_flow/000000.flo", "truth/pair.flo"]
    rows = []
    for name, pairs in (("rendered clip", clip_pairs), ("motorcycle", [real])):
        errors = []
        for files in pairs:
            first, second = (read_image(OUT / file) for file in files[:2])
            ours, truth = (read_flow(OUT / file) for file in files[2:])
            errors.append(
                [np.nanmean(epe_map(f, truth)) for f in (ours, dis(first, second), 0 * ours)]
            )
        print("{}: EPE {:.2f} px, DIS {:.2f}, zero flow {:.2f}".format(name, *np.mean(errors, 0)))
        top = np.nanpercentile(np.hypot(*np.moveaxis(truth, -1, 0)), 99)
        flows = [flow_to_image(flow, top) for flow in (truth, ours)]
        maps = [error_map(flow, truth, top / 4) for flow in (ours, dis(first, second))]
        rows += [draw_arrows(first, ours), *flows, *maps]
    labels = ["frame and our flow", "truth", "flowmatch", "error, flowmatch", "error, DIS"]
    write_image(OUT / "overview.png", side_by_side(*rows, labels=labels * 2, columns=5))
    print(f"video: {OUT / 'flow/flow.mp4'}\noverview: {OUT / 'overview.png'}")


if __name__ == "__main__":
    main()
