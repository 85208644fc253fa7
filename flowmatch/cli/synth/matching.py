"""``flowmatch synth matching``: a sheet of the patches that descriptors are trained on."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from flowmatch.cli._messages import messages
from flowmatch.cli._options import Magnification, PhotosFolder
from flowmatch.io.image import write_image
from flowmatch.matching.keypoints import MAGNIFICATION
from flowmatch.matching.synthetic.pairs import SyntheticPatches, photos_in


def command(
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
    messages.print(f"{count} pairs of views in {sheet}")
