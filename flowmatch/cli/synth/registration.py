"""``flowmatch synth registration``: look at the scans that descriptors are trained on."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._messages import (
    messages,
)
from flowmatch.draw import side_by_side
from flowmatch.io.image import write_image
from flowmatch.registration.draw import draw_pair
from flowmatch.registration.synthetic.pairs import SyntheticScans


def command(
    sheet: Annotated[Path, typer.Option(help="Picture to write.")],
    count: Annotated[int, typer.Option(min=1, help="Pairs on the sheet.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs.")] = 0,
) -> None:
    """Draw a sheet of pairs of scans: each alone, then laid together, and from above."""
    pairs = SyntheticScans(seed)
    write_image(sheet, side_by_side(*(draw_pair(*pairs[k]) for k in range(count)), columns=1))
    messages.print(f"{count} pairs in {sheet}")
