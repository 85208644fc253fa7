"""``flowmatch eval registration``: descriptors and registrations next to FPFH."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flowmatch.cli._messages import (
    progress_bar,
)
from flowmatch.cli._options import (
    DeviceName,
    WeightsFile,
)
from flowmatch.cli._tables import (
    number_table,
)
from flowmatch.registration.data.datasets import find_fragments
from flowmatch.registration.evaluation.evaluate import RegistrationScores, evaluate
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.store import Descriptor, available, load_descriptor


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Scenes of the 3DMatch benchmark (cloud_bin_*.ply, gt.log, gt.info), depth frames "
            "(depth/, poses.txt, intrinsics.txt), src.*, ref.* and gt.npy, or folders of these.",
            show_default=False,
        ),
    ],
    weights: WeightsFile = None,
    device: DeviceName = None,
    voxel: Annotated[
        float | None, typer.Option(help="Down-sampling, metres; else by the scans' size.")
    ] = None,
    keypoints: Annotated[
        int, typer.Option(help="Most points of a scan that are described.")
    ] = RegisterOptions.keypoints,
    rotated: Annotated[bool, typer.Option(help="Also turn each fragment at random.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of keypoints and RANSAC.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure descriptors and registrations on fragments whose motions are known."""
    pairs = find_fragments(folder)
    methods: dict[str, Descriptor] = {}
    if weights is not None:
        methods["flowmatch"] = load_descriptor(weights=weights, device=device)
    else:
        methods |= {name: load_descriptor(name, device=device) for name in available()}
    methods["FPFH"] = "fpfh"
    options = RegisterOptions(voxel=voxel, keypoints=keypoints, seed=seed)
    with progress_bar(transient=True) as bar:
        task = bar.add_task("eval", total=None)
        rows = evaluate(
            pairs,
            methods,
            options,
            rotated=(False, True) if rotated else (False,),
            progress=lambda stage, done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        plain = [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in named.items()}
            for named in (row._asdict() for row in rows)
        ]
        typer.echo(json.dumps({"folder": str(folder), "scores": plain}, indent=2, allow_nan=False))
        return
    console = stdout_console()
    console.print(_table(rows))
    console.print()
    console.print(_legend(len(pairs)))


def _table(rows: list[RegistrationScores]) -> Table:
    table = number_table("pairs", "FPR95", "inliers", "FMR", "recall", "precision", "s/pair")
    for row in rows:
        shares = (
            row.fpr95, row.inlier_ratio, row.feature_match_recall, row.recall, row.precision,
        )  # fmt: skip
        table.add_row(
            row.method + (", rotated" if row.rotated else ""),
            str(row.pairs),
            *("-" if math.isnan(share) else f"{100 * share:.1f}" for share in shares),
            f"{row.seconds:.1f}",
        )
    return table


def _legend(pairs: int) -> str:
    return "\n".join(
        [
            f"{pairs} pairs; those that overlap (frames: by 30 %) count, the others in precision.",
            "FPR95: percent of wrong keypoint pairs accepted with 95 % of the right ones.",
            "inliers: percent of mutual matches within 10 cm. FMR: pairs with more than 5 % of it.",
            "recall, precision: registrations that are trusted and within 20 cm (3DMatch's rule),",
            "of the pairs that overlap, and of all that are trusted.",
        ]
    )
