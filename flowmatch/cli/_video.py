"""Options and steps that ``train video`` and ``eval video`` share."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from flowmatch.cli._messages import progress_bar
from flowmatch.cli._options import DATA, TRAINING, check_weights_file, parse_frames
from flowmatch.devices import choose_device
from flowmatch.flow.baselines import dis_refined
from flowmatch.flow.estimate import estimate_flow
from flowmatch.flow.options import FlowOptions
from flowmatch.flow.store import load
from flowmatch.imaging import Image
from flowmatch.io.video import Frames, read_frames
from flowmatch.selfsupervised import TrackedPatches, VideoRecipe, mine_patches
from flowmatch.training import single_opencv_thread

Clips = Annotated[
    list[str],
    typer.Argument(metavar="CLIP", help="Videos, or folders of frames.", show_default=False),
]
FlowMethod = Annotated[
    str,
    typer.Option(
        "--flow",
        help="Flow by which objects are tracked: network, or dis, which is several times faster.",
        rich_help_panel=DATA,
    ),
]
Start = Annotated[
    Path | None,
    typer.Option(
        metavar="WEIGHTS",
        callback=check_weights_file,
        help="File with the weights that the backbone starts from, .safetensors.",
        show_default=False,
        rich_help_panel=TRAINING,
    ),
]


def open_clips(clips: list[str], frames: str) -> list[Frames]:
    """Open videos or folders; `frames` is a range FIRST:STOP in each of them."""
    first, stop = parse_frames(frames)
    return [read_frames(clip, start=first, stop=stop) for clip in clips]


def track_patches(
    videos: list[Frames],
    recipe: VideoRecipe,
    flow: str,
    device: str | None,
    stride: int,
    confirm: bool = False,
) -> TrackedPatches:
    """Track moving objects in videos, with a progress bar.

    Args:
        videos: The videos.
        recipe: Recipe that determines the size of the patches.
        flow: ``"network"`` or ``"dis"``.
        device: Device of the network.
        stride: Interval of frames whose patches are kept.
        confirm: Whether tracks must be confirmed by the other flow.

    Raises:
        ValueError: The flow is unknown, or no moving object is found.
    """
    if flow not in ("network", "dis"):
        raise ValueError(f"--flow must be network or dis, got {flow!r}")
    model = load(device=choose_device(device))
    # Refined, because a network's flow alone is no sharper than its last level.
    options = FlowOptions(quality="fast", refine=True, precision="bfloat16")

    def network(first: Image, second: Image) -> NDArray[np.float32]:
        return estimate_flow(first, second, model=model, options=options)

    with progress_bar(transient=True) as bar, single_opencv_thread():
        task = bar.add_task("track", total=None)
        return mine_patches(
            videos,
            network if flow == "network" else dis_refined,
            size=recipe.mined,
            stride=stride,
            checked_by=(dis_refined if flow == "network" else network) if confirm else None,
            progress=lambda stage, done, total: bar.update(task, completed=done, total=total),
        )
