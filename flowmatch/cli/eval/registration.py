"""``flowmatch eval registration``: descriptors and registrations of scans, beside FPFH."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flowmatch.cli._messages import StageBars, progress_bar
from flowmatch.cli._options import (
    INPUT,
    METHODS,
    DeviceName,
    JsonFile,
    ScanKeypoints,
    ScanSeed,
    ScanVoxel,
    WeightsFile,
    check_target,
)
from flowmatch.cli._tables import number_table, percent, print_table, write_json
from flowmatch.registration.data.datasets import find_fragments
from flowmatch.registration.evaluation.evaluate import Method, RegistrationScores, evaluate
from flowmatch.registration.evaluation.methods import (
    kiss_matcher_is_installed,
    register_automatically,
    register_by_kiss_matcher,
)
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.store import available, load_descriptor

EXAMPLES = (
    "flowmatch eval registration 3dmatch/7-scenes-redkitchen",
    "flowmatch eval registration recording --weights spin.safetensors --no-rotated",
)


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of scenes of the 3DMatch benchmark (cloud_bin_*.ply, gt.log, gt.info), of "
            "depth frames (depth/, poses.txt, intrinsics.txt), with src.*, ref.* and gt.npy, or of "
            "such folders.",
            show_default=False,
        ),
    ],
    json: JsonFile = None,
    weights: WeightsFile = None,
    device: DeviceName = None,
    max_depth: Annotated[
        float | None,
        typer.Option(
            help="Depth of depth pictures beyond which measurements are ignored, metres.",
            show_default="no limit",
            rich_help_panel=INPUT,
        ),
    ] = None,
    rotated: Annotated[
        bool,
        typer.Option(
            help="Further rows for fragments that are rotated at random.", rich_help_panel=METHODS
        ),
    ] = True,
    voxel: ScanVoxel = None,
    keypoints: ScanKeypoints = RegisterOptions.keypoints,
    seed: ScanSeed = 0,
) -> None:
    """Measure descriptors and registrations of scans.

    The motions between the fragments must be known. FPFH is measured beside the networks; auto is
    what register does; and KISS-Matcher, refined by small-gicp, if it is installed.
    """
    check_target(json)
    pairs = find_fragments(folder, max_depth=max_depth)
    methods: dict[str, Method] = {}
    if weights is not None:
        methods["flowmatch"] = load_descriptor(weights=weights, device=device)
    else:
        methods |= {name: load_descriptor(name, device=device) for name in available()}
    methods["FPFH"] = "fpfh"
    if weights is None and available():
        methods["auto"] = register_automatically
    if kiss_matcher_is_installed():
        methods["KISS-Matcher"] = register_by_kiss_matcher
    options = RegisterOptions(voxel=voxel, keypoints=keypoints, seed=seed)
    with progress_bar(transient=True) as bar:
        rows = evaluate(
            pairs,
            methods,
            options,
            rotated=(False, True) if rotated else (False,),
            progress=StageBars(bar),
        )
    content = {"folder": str(folder), "scores": [row._asdict() for row in rows]}
    if json is None or not write_json(json, content):
        print_table(_table(rows), _legend(len(pairs)))


def _table(rows: list[RegistrationScores]) -> Table:
    table = number_table("pairs", "FPR95", "inliers", "FMR", "recall", "precision", "s/pair")
    for row in rows:
        shares = (
            row.fpr95, row.inlier_ratio, row.feature_match_recall, row.recall, row.precision,
        )  # fmt: skip
        table.add_row(
            row.method + (", rotated" if row.rotated else ""),
            str(row.pairs),
            *(percent(share) for share in shares),
            f"{row.seconds:.1f}",
        )
    return table


def _legend(pairs: int) -> str:
    return "\n".join(
        [
            f"{pairs} pairs; those without overlap (frames: 30 %) count in precision only.",
            "FPR95: percent of wrong keypoint pairs accepted with 95 % of the right ones.",
            "inliers: percent of mutual matches within 10 cm. FMR: pairs with more than 5 % of it.",
            "recall, precision: registrations that are trusted and within 20 cm (3DMatch's rule),",
            "of the pairs that overlap, and of all that are trusted.",
        ]
    )
