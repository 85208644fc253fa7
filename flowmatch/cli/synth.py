"""``flowmatch synth``: look at the data that networks are trained on."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from flowmatch.cli.options import CutoutsFolder, PhotosFolder, console
from flowmatch.draw import flow_to_image, side_by_side
from flowmatch.flow.synthetic import Sources, SyntheticFlow
from flowmatch.fragments.draw import draw_pair
from flowmatch.fragments.synthetic import SyntheticScans
from flowmatch.io.image import write_image

synth_app = typer.Typer(no_args_is_help=True, help="Make synthetic data.")


@synth_app.command("flow")
def synth_flow(
    sheet: Annotated[Path, typer.Option(help="Picture to write.")],
    photos: PhotosFolder = None,
    cutouts: CutoutsFolder = None,
    count: Annotated[int, typer.Option(min=1, help="Pairs on the sheet.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs.")] = 0,
) -> None:
    """Draw a sheet of pairs: both frames, their flow, and what is occluded (white)."""
    pairs = SyntheticFlow(Sources.from_folders(photos, cutouts), seed=seed)
    pictures = []
    for sample in (pairs[index] for index in range(count)):
        occluded = np.repeat(sample.occluded[..., None] * np.uint8(255), 3, axis=2)
        pictures += [sample.first, sample.second, flow_to_image(sample.flow), occluded]
    write_image(sheet, side_by_side(*pictures, columns=4))
    console.print(f"{count} pairs in {sheet}")


@synth_app.command("fragments")
def synth_fragments(
    sheet: Annotated[Path, typer.Option(help="Picture to write.")],
    count: Annotated[int, typer.Option(min=1, help="Pairs on the sheet.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs.")] = 0,
) -> None:
    """Draw a sheet of pairs of scans: each alone, then laid together, and from above."""
    pairs = SyntheticScans(seed)
    write_image(sheet, side_by_side(*(draw_pair(pairs[k]) for k in range(count)), columns=1))
    console.print(f"{count} pairs in {sheet}")
