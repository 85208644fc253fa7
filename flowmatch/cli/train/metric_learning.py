"""``flowmatch train metric-learning``: embeddings of labelled pictures."""

from typing import Annotated

import typer

from flowmatch.cli._embedding import (
    DATA_HELP,
    Augment,
    Backbone,
    Classes,
    Dimension,
    FrozenNorm,
    Hard,
    Parts,
    Photos,
    ReadingWorkers,
    SamplesPerClass,
    Size,
    Start,
    Steps,
    Unseen,
    read_parts,
)
from flowmatch.cli._messages import messages
from flowmatch.cli._options import TRAINING, DeviceName, OutputFolder, Resume
from flowmatch.cli._run import check_new, reporter, resumable
from flowmatch.devices import choose_device
from flowmatch.metric_learning.fit import Recipe, read_backbone, train_embedding
from flowmatch.metric_learning.losses import LOSSES
from flowmatch.metric_learning.miners import MINERS
from flowmatch.metric_learning.store import save_weights

EXAMPLES = (
    "flowmatch train metric-learning digits -o runs --loss triplet",
    "flowmatch train metric-learning birds -o runs --backbone resnet18 --loss-arg margin=0.2",
)


def command(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help=f"Data: {DATA_HELP}.", show_default=False)
    ],
    output: OutputFolder,
    loss: Annotated[
        str, typer.Option(help=f"Loss: {', '.join(LOSSES)}.", rich_help_panel=TRAINING)
    ] = "multi-similarity",
    loss_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Argument of the loss, such as temperature=0.1; may be given several times.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    miner: Annotated[
        str,
        typer.Option(
            help=f"Miner of pairs or triplets: paper (that of the loss's paper), none, "
            f"{', '.join(MINERS)}.",
            rich_help_panel=TRAINING,
        ),
    ] = "paper",
    backbone: Backbone = "small",
    dimension: Dimension = 16,
    steps: Steps = 200,
    rate: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=TRAINING)] = 1e-3,
    classes: Classes = 5,
    samples_per_class: SamplesPerClass = 8,
    start: Start = None,
    frozen_norm: FrozenNorm = False,
    seed: Annotated[
        int,
        typer.Option(help="Random seed for weights and batches.", rich_help_panel=TRAINING),
    ] = 0,
    resume: Resume = False,
    size: Size = None,
    photos: Photos = None,
    parts: Parts = 0,
    hard: Hard = False,
    unseen: Unseen = None,
    augment: Augment = False,
    workers: ReadingWorkers = 0,
    device: DeviceName = None,
) -> None:
    """Train an embedding of labelled pictures.

    The weights are called after the loss. Training may be stopped at any time; --resume continues.
    """
    checkpoint, weights = output / f"{loss}.pt", output / f"{loss}.safetensors"
    check_new(output, checkpoint, resume)
    train, test = read_parts(data, photos, unseen, size, parts, hard)
    total = len({*train.classes, *test.classes})
    if len(train.classes) < 2:
        raise ValueError(
            f"training needs two classes or more, got {len(train.classes)} of {total}: "
            "--unseen pictures or --unseen nothing leaves all of them"
        )
    recipe = Recipe(
        loss=loss,
        miner=miner,
        backbone=backbone,
        dimension=dimension,
        size=size or train.natural_size(backbone),
        steps=steps,
        classes=classes,
        samples_per_class=samples_per_class,
        rate=rate,
        frozen_norm=frozen_norm,
        augment=augment,
        options=_numbers(loss_arg or []),
    )
    output.mkdir(parents=True, exist_ok=True)
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
    save_weights(weights, network)
    messages.print(f"trained on {len(train.classes)} of {total} classes, weights in {weights}")


def _numbers(arguments: list[str]) -> dict[str, float]:
    """Return the numbers of options NAME=VALUE by name."""
    numbers: dict[str, float] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        try:
            numbers[name] = int(value) if value.isdigit() else float(value)
        except ValueError:
            raise ValueError(
                f"--loss-arg must be NAME=VALUE with a number, got {argument!r}"
            ) from None
    return numbers
