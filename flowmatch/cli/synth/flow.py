"""``flowmatch synth flow``: a sheet of the pairs that flow networks are trained on."""

from typing import Annotated

import numpy as np
import typer

from flowmatch.cli._messages import messages
from flowmatch.cli._options import (
    DATA,
    CutoutsFolder,
    DeviceName,
    PhotosFolder,
    Render,
    Seed,
    SheetFile,
    check_target,
)
from flowmatch.devices import choose_device
from flowmatch.draw import flow_to_image, side_by_side
from flowmatch.flow.synthetic.packing import pack_plans
from flowmatch.flow.synthetic.pairs import SyntheticFlow
from flowmatch.flow.synthetic.render import render_plans
from flowmatch.flow.synthetic.sources import Sources
from flowmatch.flow.training.train import RENDERERS
from flowmatch.io import IMAGE_SUFFIXES, write_image
from flowmatch.progress import counted

EXAMPLES = (
    "flowmatch synth flow -o sheet.png",
    "flowmatch synth flow -o sheet.png --photos photos --count 12 --seed 1",
)


def command(
    output: SheetFile,
    photos: PhotosFolder = None,
    cutouts: CutoutsFolder = None,
    count: Annotated[int, typer.Option(min=1, help="Number of pairs.", rich_help_panel=DATA)] = 6,
    seed: Seed = 0,
    render: Render = "workers",
    device: DeviceName = None,
) -> None:
    """Draw a sheet of synthetic pairs with their flow.

    Each row shows both frames, the flow, and the occluded pixels in white.
    """
    check_target(output, IMAGE_SUFFIXES)
    if render not in RENDERERS:
        raise ValueError(f"--render must be one of {', '.join(RENDERERS)}, got {render!r}")
    pairs = SyntheticFlow(Sources.from_folders(photos, cutouts), seed=seed)
    samples = (pairs[index] for index in range(count))
    if render == "device":
        target, plans = choose_device(device), (pairs.plan(index) for index in range(count))
        samples = (render_plans(pack_plans([plan]), target).samples()[0] for plan in plans)
    pictures = []
    for sample in samples:
        occluded = np.repeat(sample.occluded[..., None] * np.uint8(255), 3, axis=2)
        pictures += [sample.first, sample.second, flow_to_image(sample.flow), occluded]
    write_image(output, side_by_side(*pictures, columns=4))
    messages.print(f"{counted(count, 'pair')} in {output}")
