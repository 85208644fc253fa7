"""``flowmatch eval video``: retrieval of moving objects, beside an untrained network."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from torch import Tensor

from flowmatch.cli._options import DeviceName
from flowmatch.cli._tables import stdout_console
from flowmatch.cli._video import (
    Clips,
    FlowOption,
    FramesOption,
    Recipe,
    Start,
    chosen_recipe,
    follow_patches,
    open_clips,
)
from flowmatch.devices import choose_device
from flowmatch.io import write_image
from flowmatch.metric_learning.fit import read_backbone
from flowmatch.metric_learning.store import load
from flowmatch.selfsupervised import BASELINES, TrackedPatches, embed_patches, score_patches
from flowmatch.selfsupervised.evaluate import VideoScores, calibrate_batch_norm, retrieval_sheet
from flowmatch.selfsupervised.train import initial_network


def command(
    clips: Clips,
    weights: Annotated[Path, typer.Option(help="What train video wrote.")],
    frames: FramesOption = "0:",
    recipe: Recipe = "video-small",
    flow: FlowOption = "network",
    start: Start = None,
    apart: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Frames between a query and what it should find; as often as you like.  "
            "[default: 10, 20]",
            show_default=False,
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="File for a picture of what is found.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: DeviceName = None,
) -> None:
    """Find what moves in other frames of videos, beside the untrained network and baselines.

    What is the same thing is what two trackers agree about, by two kinds of flow: give frames that
    training has not seen.
    """
    chosen, network = chosen_recipe(recipe), load(weights, device=choose_device(device))
    patches = follow_patches(open_clips(clips, frames), chosen, flow, device, every=5, checked=True)
    initial = calibrate_batch_norm(
        initial_network(chosen, read_backbone(start) if start else None), patches, chosen.size
    )
    found: dict[str, Tensor] = {name: make(patches) for name, make in BASELINES.items()}
    found["initialisation"] = embed_patches(initial, patches, chosen.size)
    found["trained"] = embed_patches(network, patches, network.size)
    gaps = apart or [10, 20]
    rows = {
        name: {gap: score_patches(embedded, patches, gap) for gap in gaps}
        for name, embedded in found.items()
    }
    if picture is not None:
        shown = {name: found[name] for name in ("initialisation", "trained")}
        write_image(picture, retrieval_sheet(shown, patches, gap=gaps[-1]))
    if as_json:
        plain = {
            name: {gap: {"R@1": s.recall_at_1.mean, "mAP": s.map.mean} for gap, s in row.items()}
            for name, row in rows.items()
        }
        typer.echo(json.dumps(plain, indent=2))
        return
    _print(rows, patches)


def _print(rows: dict[str, dict[int, VideoScores]], patches: TrackedPatches) -> None:
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    table.add_column("embedding", no_wrap=True)
    chance, counts = [], []
    for gap, one in next(iter(rows.values())).items():
        table.add_column(f"R@1, {gap} apart", justify="right", no_wrap=True)
        table.add_column(f"mAP, {gap} apart", justify="right", no_wrap=True)
        chance += [f"{100 * one.chance:.1f}", ""]
        counts.append(f"{one.queries} of {one.tracks} tracks {gap} apart")
    for name, row in rows.items():
        figures = [figure for one in row.values() for figure in (one.recall_at_1, one.map)]
        cells = (f"{100 * figure.mean:.1f} ±{100 * figure.margin:.1f}" for figure in figures)
        table.add_row(name, *cells)
    table.add_row("chance", *chance)
    console = stdout_console()
    console.print(table)
    console.print(
        f"{len(patches)} patches of {patches.tracks} tracks. Each is searched among those of its "
        "track that are frames apart and of what is\ncertainly something else; queries with both: "
        f"{', '.join(counts)}. Means over tracks ± half a 95 % interval, percent."
    )
