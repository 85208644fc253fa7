"""``flowmatch synth registration``: a sheet of the scans that descriptors are trained on."""

from typing import Annotated

import typer

from flowmatch.cli._messages import messages
from flowmatch.cli._options import DATA, Seed, SheetFile, check_target
from flowmatch.draw import side_by_side
from flowmatch.io import IMAGE_SUFFIXES, write_image
from flowmatch.progress import counted
from flowmatch.registration.draw import draw_pair
from flowmatch.registration.synthetic.pairs import SyntheticScans

EXAMPLES = (
    "flowmatch synth registration -o sheet.png",
    "flowmatch synth registration -o sheet.png --count 8 --seed 1",
)


def command(
    output: SheetFile,
    count: Annotated[int, typer.Option(min=1, help="Number of pairs.", rich_help_panel=DATA)] = 4,
    seed: Seed = 0,
) -> None:
    """Draw a sheet of synthetic pairs of scans.

    Each row shows both scans alone, then registered, and from above.
    """
    check_target(output, IMAGE_SUFFIXES)
    pairs = SyntheticScans(seed)
    write_image(output, side_by_side(*(draw_pair(*pairs[k]) for k in range(count)), columns=1))
    messages.print(f"{counted(count, 'pair')} in {output}")
