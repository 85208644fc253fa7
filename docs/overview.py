"""Draw overview.jpg, the first picture of the documentation, from what `make demo` computed."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import flowmatch as fm
from flowmatch.flow.baselines import dis

SHOWN = (0, 9)
"""Indices of the frames in the demo's clip."""
FULL_ERROR = 3.0
"""Endpoint error of the brightest colour, in pixels."""
TITLES = ("first frame", "true flow", "flowmatch", "error of flowmatch", "error of DIS (OpenCV)")


def main() -> None:
    """Draw the frames, flows and errors in a table."""
    demo, here = Path("demo_out"), Path(__file__).parent
    figure, axes = plt.subplots(
        len(SHOWN), len(TITLES), figsize=(16.5, 4.7), layout="constrained",
        subplot_kw={"xticks": [], "yticks": []},
    )  # fmt: skip
    for row, index in zip(axes, SHOWN, strict=True):
        names = [f"clean/clip/frame_{i:04d}.png" for i in (index, index + 1)]
        first, second = (fm.io.read_image(demo / name) for name in names)
        truth = fm.io.read_flow(demo / f"flow/clip/frame_{index:04d}.flo")
        flows = fm.io.read_flow(demo / f"estimate/{index:06d}.flo"), dis(first, second)
        errors = [np.linalg.norm(flow - truth, axis=-1) for flow in flows]
        longest = float(np.linalg.norm(truth, axis=-1).max())
        colours = [fm.draw.flow_to_image(flow, max_flow=longest) for flow in (truth, flows[0])]
        for axis, picture in zip(row, (first, *colours, *errors), strict=True):
            axis.imshow(picture, cmap="inferno", vmin=0, vmax=FULL_ERROR)
        for axis, error in zip(row[3:], errors, strict=True):
            axis.text(8, 312, f"{error.mean():.2f} px", color="w", size=15, weight="bold")
    for axis, title in zip(axes[0], TITLES, strict=True):
        axis.set_title(title, size=17)
    figure.savefig(here / "overview.jpg", dpi=100, pil_kwargs={"quality": 88})


main()
