"""``flowmatch eval video``: retrieval of moving objects, beside an untrained network."""

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from torch import Tensor

from flowmatch.cli._options import (
    DATA,
    MODEL,
    OUTPUT,
    DeviceName,
    FrameRange,
    JsonFile,
    WhiteLevel,
    check_target,
    check_weights_file,
)
from flowmatch.cli._run import find_recipe, recipe_option
from flowmatch.cli._tables import number_table, percent, print_table, write_json
from flowmatch.cli._video import Clips, FlowMethod, Start, open_clips, track_patches
from flowmatch.devices import choose_device
from flowmatch.io import IMAGE_SUFFIXES, write_image
from flowmatch.metric_learning.fit import read_backbone
from flowmatch.metric_learning.protocol import Estimate
from flowmatch.metric_learning.store import load
from flowmatch.selfsupervised import (
    BASELINES,
    RECIPES,
    TrackedPatches,
    embed_patches,
    score_patches,
)
from flowmatch.selfsupervised.evaluate import (
    VideoScores,
    calibrate_batch_norm,
    count_queries,
    retrieval_sheet,
)
from flowmatch.selfsupervised.train import initial_network

EXAMPLES = (
    "flowmatch eval video street.mp4 --frames 2000: --weights runs/video-small.safetensors",
    "flowmatch eval video street.mp4 --weights runs/video-small.safetensors --gap 5 --gap 50",
)
_DEFAULT_GAPS = [10, 20]
_UNKNOWN = Estimate(math.nan, math.nan)
_NO_SCORES = VideoScores(_UNKNOWN, _UNKNOWN, math.nan, tracks=0, queries=0)


def command(
    clips: Clips,
    weights: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            callback=check_weights_file,
            help="File that flowmatch train video wrote, .safetensors.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ],
    frames: FrameRange = "0:",
    flow: FlowMethod = "network",
    gap: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Number of frames between a query and its results; may be given several times.",
            show_default="10 and 20",
            rich_help_panel=DATA,
        ),
    ] = None,
    json: JsonFile = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Picture of queries and their results.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    recipe: Annotated[str, recipe_option(RECIPES)] = "video-small",
    start: Start = None,
    white: WhiteLevel = None,
    device: DeviceName = None,
) -> None:
    """Measure the retrieval of moving objects in other frames.

    Two patches show the same object if two trackers, by two kinds of flow, agree. The frames should
    be others than those of the training; an untrained network and simple baselines are measured
    beside the weights.
    """
    check_target(json)
    check_target(picture, IMAGE_SUFFIXES)
    chosen, network = find_recipe(RECIPES, recipe), load(weights, device=choose_device(device))
    clip = open_clips(clips, frames)
    patches = track_patches(clip, chosen, flow, device, stride=5, confirm=True)
    initial = calibrate_batch_norm(
        initial_network(chosen, read_backbone(start) if start else None), patches, chosen.size
    )
    embeddings: dict[str, Tensor] = {name: make(patches) for name, make in BASELINES.items()}
    embeddings["initialisation"] = embed_patches(initial, patches, chosen.size)
    embeddings["trained"] = embed_patches(network, patches, network.size)
    gaps = gap or _DEFAULT_GAPS
    searched = [frames for frames in gaps if count_queries(patches, frames)]
    if not searched:
        least = min(gaps)
        raise ValueError(f"no track has patches {least} frames apart and others beside it")
    rows = {
        name: {
            frames: score_patches(embedded, patches, frames) if frames in searched else _NO_SCORES
            for frames in gaps
        }
        for name, embedded in embeddings.items()
    }
    if picture is not None:
        shown = {name: embeddings[name] for name in ("initialisation", "trained")}
        write_image(picture, retrieval_sheet(shown, patches, gap=searched[-1]))
    content = {
        name: {gap: {"R@1": s.recall_at_1.mean, "mAP": s.map.mean} for gap, s in row.items()}
        for name, row in rows.items()
    }
    if json is None or not write_json(json, content):
        print_table(_table(rows), _legend(rows, patches))


def _table(rows: dict[str, dict[int, VideoScores]]) -> Table:
    first = next(iter(rows.values()))
    columns = [f"{name}, gap {gap}" for gap in first for name in ("R@1", "mAP")]
    table = number_table(*columns, title="embedding")
    for name, row in rows.items():
        values = [value for scores in row.values() for value in (scores.recall_at_1, scores.map)]
        table.add_row(name, *map(_cell, values))
    chance = [text for scores in first.values() for text in (percent(scores.chance), "")]
    table.add_row("chance", *chance)
    return table


def _cell(value: Estimate) -> str:
    margin = "" if math.isnan(value.margin) else f" ±{percent(value.margin)}"
    return percent(value.mean) + margin


def _legend(rows: dict[str, dict[int, VideoScores]], patches: TrackedPatches) -> str:
    counts = [
        f"{scores.queries} of {scores.tracks} tracks at gap {gap}"
        for gap, scores in next(iter(rows.values())).items()
    ]
    return (
        f"{len(patches)} patches of {patches.tracks} tracks. A query is searched among patches of "
        "its track, at least gap frames\naway, and patches that certainly show something else; "
        f"queries that have both: {', '.join(counts)}.\nMeans over tracks ± half a 95 % interval, "
        "percent."
    )
