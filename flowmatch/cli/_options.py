"""Options that several commands share, each with one meaning, and checks of output paths."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

ModelName = Annotated[str, typer.Option(help="Weights that ship, by name.")]
WeightsFile = Annotated[
    Path | None, typer.Option(help="Weights of your own, .safetensors.", show_default=False)
]
DeviceName = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1; else the best there is.", show_default=False),
]
Precision = Annotated[str, typer.Option(help="Of the convolutions: float32, bfloat16 or float16.")]
Refine = Annotated[
    bool, typer.Option("--refine", help="Refine each flow: slower, better below a pixel.")
]
Zoom = Annotated[
    float, typer.Option(help="Enlarge what the network sees, at most 4: finds small, fast things.")
]
Fuse = Annotated[
    bool, typer.Option("--fuse", help="Take DIS's flow (OpenCV) where it explains a pixel better.")
]
Best = Annotated[
    bool,
    typer.Option("--best", help="The same as --zoom 2 --fuse --refine: about 10 times slower."),
]
PhotosFolder = Annotated[
    Path | None,
    typer.Option(help="Folder of photographs; else textures are procedural.", show_default=False),
]
CutoutsFolder = Annotated[
    Path | None, typer.Option(help="Folder of PNG objects with alpha.", show_default=False)
]

Render = Annotated[
    str,
    typer.Option(help="workers: OpenCV paints pairs, one by one; device: torch, whole batches."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in OUT.")]
TrainingPrecision = Annotated[str, typer.Option(help="bfloat16 or float32.")]

Magnification = Annotated[
    float | None,
    typer.Option(
        help="Half a patch's side in scales of its keypoint; else what a network was trained on.",
        show_default=False,
    ),
]


def check_target(path: Path | None, suffixes: Collection[str] = ()) -> None:
    """Refuse a file that could not be written in the end, before any work is done."""
    if path is None:
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} cannot be written: it is a folder")
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{path}: expected a name ending in one of {', '.join(suffixes)}")
