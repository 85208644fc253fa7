"""``flowmatch train retrieval``: a descriptor of whole pictures, from a folder without labels."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.align import load as load_align
from flowmatch.cli._messages import (
    messages,
    progress_bar,
)
from flowmatch.cli._options import (
    DeviceName,
    TrainingPrecision,
)
from flowmatch.cli._run import (
    resumable,
)
from flowmatch.devices import choose_device
from flowmatch.io import read_image
from flowmatch.retrieval.describe import at_most
from flowmatch.retrieval.index import list_pictures
from flowmatch.retrieval.mining import clusters, verified_pairs
from flowmatch.retrieval.network import STORE, RetrievalNet
from flowmatch.retrieval.train import RECIPES, train_retrieval
from flowmatch.retrieval.verify import local_features
from flowmatch.training import StepReport

_SIDE = 400  # pixels; enough for points to agree, and all pictures have to fit into memory


def command(
    folder: Annotated[Path, typer.Argument(help="Of pictures, some of them of the same things.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints and the weights.")],
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")] = "retrieval-small",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoints in OUT.")
    ] = False,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
    workers: Annotated[int, typer.Option(min=0, help="Processes that make samples.")] = 1,
) -> None:
    """Find pictures of the same thing by matching their points, and learn to describe them alike.

    Nothing has to be labelled. The network begins with the trunk that flowmatch align uses.
    """
    if recipe not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    checkpoint = out / f"{recipe}.pt"
    first = checkpoint.with_name(f"{recipe}-0.pt")
    if first.exists() and not resume:
        raise ValueError(f"{out} holds a run of {recipe} already: --resume, or another --out")
    where = str(choose_device(device))
    listed = list_pictures(folder)
    pictures = []
    for entry in listed:
        try:
            pictures.append(at_most(read_image(folder / entry.name), _SIDE))
        except (ValueError, OSError) as error:
            messages.print(f"failed: {entry.name}: {error}")
    with progress_bar() as bar:
        task = bar.add_task("find points", total=len(pictures))
        features = [
            local_features(one) for one in bar.track(pictures, task_id=task)
        ]  # fmt: skip
        task = bar.add_task("verify pairs", total=len(pictures))
        pairs = verified_pairs(features, progress=lambda done: bar.update(task, completed=done))
    things = len(set(clusters(len(pictures), pairs).tolist()))
    messages.print(f"{len(pairs)} verified pairs among {len(pictures)} pictures of {things} things")

    def report(done: int, progress: StepReport) -> None:
        if progress.step % 20 == 0 or progress.step == progress.steps:
            messages.print(
                f"round {done + 1}/{RECIPES[recipe].rounds}  step {progress.step}/{progress.steps}"
                f"  loss {progress.metrics['loss']:.4f}  first {progress.metrics['first']:.2f}"
            )

    with resumable(first):
        network = train_retrieval(
            RECIPES[recipe],
            RetrievalNet.from_trunk(load_align().get_submodule("backbone")),
            pictures,
            pairs,
            checkpoint,
            resume=resume,
            device=where,
            precision=precision,
            workers=workers,
            on_step=report,
        )
    weights = out / f"{recipe}.safetensors"
    STORE.save(weights, network, "retrieval", network.arguments)
    messages.print(f"weights in {weights}")
