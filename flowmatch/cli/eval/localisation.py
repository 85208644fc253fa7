"""``flowmatch eval localisation``: poses of held-out frames, beside a regression of poses."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flowmatch.cli._messages import StageBars, progress_bar
from flowmatch.cli._options import INPUT, METHODS, MODEL, DeviceName, JsonFile, check_target
from flowmatch.cli._tables import number, number_table, print_table, write_json
from flowmatch.localisation import LocaliseOptions
from flowmatch.localisation.evaluation.evaluate import LocalisationScores, evaluate

EXAMPLES = (
    "flowmatch eval localisation office",
    "flowmatch eval localisation office --hold-out 4 --json scores.json",
)


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of color/, depth/, poses.txt and intrinsics.txt, as flowmatch fuse reads "
            "it.",
            show_default=False,
        ),
    ],
    json: JsonFile = None,
    hold_out: Annotated[
        int,
        typer.Option(
            min=2,
            help="One of so many frames is held out; the others are in the index.",
            rich_help_panel=INPUT,
        ),
    ] = 8,
    poses: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Model of COLMAP of the frames that are not held out, .bin or .txt: its points "
            "take the place of the depth.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            "-k",
            "--count",
            min=1,
            help="Number of similar pictures that a frame is matched with.",
            rich_help_panel=METHODS,
        ),
    ] = LocaliseOptions.count,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Seed of the regression's training.", rich_help_panel=METHODS),
    ] = 0,
    model: Annotated[
        str,
        typer.Option(help="Descriptor of the index: as index takes it.", rich_help_panel=MODEL),
    ] = "default",
    device: DeviceName = None,
) -> None:
    """Measure the localisation of held-out frames.

    Beside it: the pose of the most similar picture, and a regression of poses from the descriptors
    of the index, after PoseNet, which is trained on the other frames.
    """
    check_target(json)
    with progress_bar(transient=True) as bar:
        scores = evaluate(
            folder,
            hold_out,
            sparse=poses,
            model=model,
            device=device,
            options=LocaliseOptions(count=count),
            seed=seed,
            progress=StageBars(bar),
        )
    content = {
        "folder": str(folder),
        "hold_out": hold_out,
        "poses": None if poses is None else str(poses),
        "seed": seed,
        "frames": scores.frames,
        "indexed": scores.indexed,
        "methods": {name: row._asdict() for name, row in scores.methods.items()},
    }
    if json is None or not write_json(json, content):
        print_table(_table(scores), _legend(scores))


def _table(scores: LocalisationScores) -> Table:
    table = number_table(
        "degrees", "largest", "cm", "largest", "right", "trusted", "wrong but trusted"
    )
    for name, row in scores.methods.items():
        trust = ("-" if count is None else str(count) for count in (row.trusted, row.wrong_trusted))
        table.add_row(
            name,
            number(row.median_degrees, 2),
            number(row.largest_degrees, 2),
            number(100 * row.median_metres, 1),
            number(100 * row.largest_metres, 1),
            str(row.right),
            *trust,
        )
    return table


def _legend(scores: LocalisationScores) -> str:
    return (
        f"{len(scores.frames)} frames are held out, {scores.indexed} are in the index. Median and "
        "largest error of rotation and position.\nright: within 5 degrees and 5 cm. regression: "
        "of the index's descriptors, with PoseNet's loss; its last row is of\nthe frames that it "
        "was trained on."
    )
