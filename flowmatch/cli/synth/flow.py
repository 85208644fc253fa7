"""``flowmatch synth``: look at the data that networks are trained on."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from flowmatch.cli.options import (
    CutoutsFolder,
    DeviceName,
    Magnification,
    PhotosFolder,
    Render,
    console,
)
from flowmatch.devices import choose_device
from flowmatch.draw import flow_to_image, side_by_side
from flowmatch.flow.synthetic.packing import pack
from flowmatch.flow.synthetic.pairs import SyntheticFlow
from flowmatch.flow.synthetic.render import render_plans
from flowmatch.flow.synthetic.sources import Sources
from flowmatch.flow.training.train import RENDER
from flowmatch.io.image import write_image
from flowmatch.matching.keypoints import MAGNIFICATION
from flowmatch.matching.synthetic.pairs import SyntheticPatches, photos_in

synth_app = typer.Typer(no_args_is_help=True, help="Make synthetic data.")


@synth_app.command("flow")
def synth_flow(
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
        samples = (render_plans(pack([plan]), where).samples()[0] for plan in plans)
    pictures = []
    for sample in samples:
        occluded = np.repeat(sample.occluded[..., None] * np.uint8(255), 3, axis=2)
        pictures += [sample.first, sample.second, flow_to_image(sample.flow), occluded]
    write_image(sheet, side_by_side(*pictures, columns=4))
    console.print(f"{count} pairs in {sheet}")


@synth_app.command("matching")
def synth_patches(
    sheet: Annotated[Path, typer.Option(help="Picture to write.")],
    photos: PhotosFolder = None,
    count: Annotated[int, typer.Option(min=1, help="Pairs of views on the sheet.")] = 8,
    points: Annotated[int, typer.Option(min=1, help="Patches of each.")] = 16,
    size: Annotated[int, typer.Option(min=8, help="Side of the patches, pixels.")] = 64,
    magnification: Magnification = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs.")] = 0,
) -> None:
    """Draw a sheet of patches: two rows for two views, below each patch the same point again."""
    pairs = SyntheticPatches(
        photos_in(photos),
        size=size,
        points=points,
        magnification=magnification or MAGNIFICATION,
        pool=1,
        reuse=1,
        seed=seed,
    )
    rows = [np.hstack(list(side)) for k in range(count) for side in pairs[k][:2]]
    write_image(sheet, np.repeat(np.vstack(rows)[..., None], 3, axis=2))
    console.print(f"{count} pairs of views in {sheet}")
