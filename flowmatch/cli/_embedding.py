"""Options and data that ``train metric-learning`` and ``eval metric-learning`` share."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._options import DATA, TRAINING, check_weights_file
from flowmatch.metric_learning.data.datasets import find_images
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.data.instances import render_instances
from flowmatch.metric_learning.data.numbers import render_numbers
from flowmatch.metric_learning.networks import BACKBONES
from flowmatch.metric_learning.protocol import split_unseen

DATA_HELP = (
    "digits (of scikit-learn), numbers (of two such digits, 100 classes), or a folder: a "
    "sub-folder of pictures for each class, or CUB-200-2011, CARS-196, Stanford Online Products, "
    "MNIST or EMNIST as unpacked"
)

Backbone = Annotated[
    str,
    typer.Option(
        help=f"Backbone: {', '.join(BACKBONES)}, or timm/NAME for a model of timm.",
        rich_help_panel=TRAINING,
    ),
]
Dimension = Annotated[
    int, typer.Option(min=1, help="Dimension of the embedding.", rich_help_panel=TRAINING)
]
Size = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Side of the square pictures, pixels.",
        show_default="64; 224 for ResNets; that of digits",
        rich_help_panel=DATA,
    ),
]
Steps = Annotated[
    int, typer.Option(min=0, help="Number of training steps.", rich_help_panel=TRAINING)
]
Classes = Annotated[
    int, typer.Option(min=1, help="Number of classes in a batch.", rich_help_panel=TRAINING)
]
SamplesPerClass = Annotated[
    int,
    typer.Option(
        min=1, help="Number of pictures of each class in a batch.", rich_help_panel=TRAINING
    ),
]
Unseen = Annotated[
    str | None,
    typer.Option(
        help="Test data that training does not see: classes, pictures of the same classes, or "
        "nothing. The split is that of the data, if they have one (MNIST's is of pictures), else "
        "in halves.",
        show_default="classes; pictures for digits",
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
FrozenNorm = Annotated[
    bool,
    typer.Option(
        "--frozen-norm", help="Batch normalisation as in --start.", rich_help_panel=TRAINING
    ),
]
Augment = Annotated[
    bool,
    typer.Option(
        "--augment", help="Random crops and mirror images of pictures.", rich_help_panel=DATA
    ),
]
Photos = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder of photographs: DATA is then a folder of cut-outs, PNG with alpha, each of "
        "which is a class, rendered in random views over the photographs.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Parts = Annotated[
    int,
    typer.Option(
        min=0,
        help="Number of parts of each photograph that are classes, too, for --photos.",
        rich_help_panel=DATA,
    ),
]
Hard = Annotated[
    bool,
    typer.Option(
        "--hard",
        help="Views of more rotation, shear, changes of colour and occlusion, for --photos.",
        rich_help_panel=DATA,
    ),
]
ReadingWorkers = Annotated[
    int,
    typer.Option(
        "--workers", min=0, help="Number of processes that read pictures.", rich_help_panel=DATA
    ),
]


def read_parts(
    data: str,
    photos: Path | None,
    unseen: str | None,
    size: int | None,
    parts: int = 0,
    hard: bool = False,
) -> tuple[LabelledImages, LabelledImages]:
    """Read data, and split them into a training and a test part.

    Args:
        data: ``"digits"``, ``"numbers"`` or a folder.
        photos: Folder of photographs, for a folder of cut-outs.
        unseen: Test data that training does not see, see `split_unseen`; None is the default.
        size: Side of rendered pictures; None is 48 for cut-outs and 16 for numbers.
        parts: Number of parts of each photograph that are classes, too.
        hard: Whether views of cut-outs are hard.
    """
    if (parts or hard) and photos is None:
        raise ValueError("--parts and --hard need --photos")
    if data == "numbers":
        images = render_numbers(size=size or 16)
    elif photos is None or data == "digits":
        images = find_images(data)
    else:
        images = render_instances(data, photos, size=size or 48, parts=parts, hard=hard)
    return split_unseen(images, unseen or ("pictures" if data == "digits" else "classes"))
