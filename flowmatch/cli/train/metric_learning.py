"""``flowmatch train metric-learning``: embeddings of pictures."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._messages import (
    messages,
)
from flowmatch.cli._options import (
    DeviceName,
)
from flowmatch.cli._run import (
    reporter,
    resumable,
)
from flowmatch.devices import choose_device
from flowmatch.metric_learning.data.datasets import find_images
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.data.instances import render_instances
from flowmatch.metric_learning.fit import Recipe, read_backbone, train_embedding
from flowmatch.metric_learning.losses import LOSSES
from flowmatch.metric_learning.miners import MINERS
from flowmatch.metric_learning.networks import BACKBONES
from flowmatch.metric_learning.protocol import split_unseen
from flowmatch.metric_learning.store import save_weights

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="digits (scikit-learn's), or a folder: one sub-folder of pictures a class, or "
        "CUB-200-2011, CARS-196, Stanford Online Products, MNIST as unpacked.",
        show_default=False,
    ),
]
Backbone = Annotated[str, typer.Option(help=f"Network: {', '.join(BACKBONES)}.")]
Dimension = Annotated[int, typer.Option(min=1, help="Of the embedding.")]
Size = Annotated[
    int | None,
    typer.Option(
        min=1, help="Of the square pictures.  [default: digits' own; 64; 224 for ResNets]"
    ),
]
Steps = Annotated[int, typer.Option(min=0, help="Of training.")]
Classes = Annotated[int, typer.Option(min=1, help="In a batch.")]
Each = Annotated[int, typer.Option(min=1, help="Pictures of a class in a batch.")]
Unseen = Annotated[
    str | None,
    typer.Option(
        help="What the test has not seen: classes, which leaves half of them for training; "
        "pictures of the same classes; or nothing.  [default: classes; pictures for digits]"
    ),
]
Start = Annotated[Path | None, typer.Option(help="Weights of the backbone, .safetensors.")]
FrozenNorm = Annotated[bool, typer.Option("--frozen-norm", help="Leave batch-norms as loaded.")]
Augment = Annotated[bool, typer.Option("--augment", help="Random crops and mirror images.")]
Photos = Annotated[
    Path | None,
    typer.Option(
        help="Folder of photographs: DATA is then a folder of cut-outs, PNG with alpha, each of "
        "them a class, shown in random views over the photographs.",
        show_default=False,
    ),
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read pictures.")]


def read_parts(
    data: str, photos: Path | None, unseen: str | None, size: int | None
) -> tuple[LabelledImages, LabelledImages]:
    """Read data, and split them into parts for training and for the test."""
    if photos is None or data == "digits":
        images = find_images(data)
    else:
        images = render_instances(data, photos, size=size or 48)
    return split_unseen(images, unseen or ("pictures" if data == "digits" else "classes"))


def command(
    data: Data,
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    loss: Annotated[str, typer.Option(help=f"One of {', '.join(LOSSES)}.")] = "multi-similarity",
    miner: Annotated[
        str, typer.Option(help=f"paper (the loss's own), none, {', '.join(MINERS)}.")
    ] = "paper",
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="What the loss takes: temperature=0.1."),
    ] = None,
    backbone: Backbone = "small",
    dimension: Dimension = 16,
    size: Size = None,
    steps: Steps = 200,
    classes: Classes = 5,
    each: Each = 8,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    photos: Photos = None,
    unseen: Unseen = None,
    start: Start = None,
    frozen_norm: FrozenNorm = False,
    augment: Augment = False,
    seed: Annotated[int, typer.Option(help="Of weights, batches and draws.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint beside OUT.")
    ] = False,
    device: DeviceName = None,
    workers: Workers = 0,
) -> None:
    """Train an embedding of pictures on the part of DATA for training; stop it any time."""
    checkpoint = out.with_suffix(".pt")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder for {out}")
    if checkpoint.exists() and not resume:
        raise ValueError(f"{checkpoint} is there already: --resume, or another --out")
    train, test = read_parts(data, photos, unseen, size)
    every = len({*train.classes, *test.classes})
    if len(train.classes) < 2:
        raise ValueError(
            f"training needs two classes or more, got {len(train.classes)} of {every}: "
            "--unseen pictures or nothing leaves all of them"
        )
    recipe = Recipe(
        loss=loss,
        miner=miner,
        backbone=backbone,
        dimension=dimension,
        size=size or train.natural_size(backbone),
        steps=steps,
        classes=classes,
        samples_per_class=each,
        rate=rate,
        frozen_norm=frozen_norm,
        augment=augment,
        options=_numbers(options or []),
    )
    with resumable(checkpoint):
        network = train_embedding(
            recipe,
            train,
            seed=seed,
            start=read_backbone(start) if start else None,
            checkpoint=checkpoint,
            resume=resume,
            device=choose_device(device),
            workers=workers,
            on_step=reporter(),
        )
    save_weights(out, network)
    messages.print(f"trained on {len(train.classes)} of {every} classes, weights in {out}")


def _numbers(options: list[str]) -> dict[str, float]:
    """Read NAME=VALUE options."""
    found: dict[str, float] = {}
    for option in options:
        name, _, value = option.partition("=")
        try:
            found[name] = int(value) if value.isdigit() else float(value)
        except ValueError:
            raise ValueError(f"--set must be NAME=VALUE with a number, got {option!r}") from None
    return found
