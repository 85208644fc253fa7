"""``flowmatch synth flow``: a sheet of the pairs that flow networks are trained on."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from flowmatch.cli._messages import messages
from flowmatch.cli._options import CutoutsFolder, DeviceName, PhotosFolder, Render
from flowmatch.devices import choose_device
from flowmatch.draw import flow_to_image, side_by_side
from flowmatch.flow.synthetic.packing import pack_plans
from flowmatch.flow.synthetic.pairs import SyntheticFlow
from flowmatch.flow.synthetic.render import render_plans
from flowmatch.flow.synthetic.sources import Sources
from flowmatch.flow.training.train import RENDER
from flowmatch.io.image import write_image


def command(
    sheet: Annotated[Path, typer.Option(help="Picture to write.")],
    photos: PhotosFolder = None,
    cutouts: CutoutsFolder = None,
    count: Annotated[int, typer.Option(min=1, help="Pairs on the sheet.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs.")] = 0,
    render: Render = "workers",
    device: DeviceName = None,
) -> None:
    """Draw a sheet of pairs: both frames, their flow, and what is occluded (white)."""
    if render not in RENDER:
        raise ValueError(f"--render must be one of {', '.join(RENDER)}, got {render!r}")
    pairs = SyntheticFlow(Sources.from_folders(photos, cutouts), seed=seed)
    samples = (pairs[index] for index in range(count))
    if render == "device":
        where, plans = choose_device(device), (pairs.plan(index) for index in range(count))
        samples = (render_plans(pack_plans([plan]), where).samples()[0] for plan in plans)
    pictures = []
    for sample in samples:
        occluded = np.repeat(sample.occluded[..., None] * np.uint8(255), 3, axis=2)
        pictures += [sample.first, sample.second, flow_to_image(sample.flow), occluded]
    write_image(sheet, side_by_side(*pictures, columns=4))
    messages.print(f"{count} pairs in {sheet}")
