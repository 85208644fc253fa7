"""``flowmatch synth matching``: a sheet of the patches that descriptors are trained on."""

from typing import Annotated

import numpy as np
import typer

from flowmatch.cli._messages import messages
from flowmatch.cli._options import (
    DATA,
    Magnification,
    PhotosFolder,
    Seed,
    SheetFile,
    check_target,
)
from flowmatch.io import IMAGE_SUFFIXES, write_image
from flowmatch.matching.keypoints import MAGNIFICATION
from flowmatch.matching.synthetic.pairs import SyntheticPatches, find_photos
from flowmatch.progress import counted

EXAMPLES = (
    "flowmatch synth matching -o sheet.png",
    "flowmatch synth matching -o sheet.png --photos photos --patches 24 --size 32",
)


def command(
    output: SheetFile,
    photos: PhotosFolder = None,
    count: Annotated[
        int, typer.Option(min=1, help="Number of pairs of views.", rich_help_panel=DATA)
    ] = 8,
    patches: Annotated[
        int, typer.Option(min=1, help="Number of patches per view.", rich_help_panel=DATA)
    ] = 16,
    size: Annotated[
        int, typer.Option(min=8, help="Side of the patches, pixels.", rich_help_panel=DATA)
    ] = 64,
    magnification: Magnification = None,
    seed: Seed = 0,
) -> None:
    """Draw a sheet of synthetic pairs of patches.

    Two rows show two views; each patch lies above the patch of the same point in the other view.
    """
    check_target(output, IMAGE_SUFFIXES)
    pairs = SyntheticPatches(
        find_photos(photos),
        size=size,
        points=patches,
        magnification=magnification or MAGNIFICATION,
        pool=1,
        reuse=1,
        seed=seed,
    )
    rows = [np.hstack(list(side)) for k in range(count) for side in pairs[k][:2]]
    write_image(output, np.repeat(np.vstack(rows)[..., None], 3, axis=2))
    messages.print(f"{counted(count, 'pair')} of views in {output}")
