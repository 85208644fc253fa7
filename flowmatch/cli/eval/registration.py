"""``flowmatch eval registration``: descriptors and registrations of scans, beside FPFH."""

import math
from pathlib import Path
from typing import Annotated, Any, TypeAlias

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
    as_registrar,
    kiss_matcher_is_installed,
    open3d_is_installed,
    register_by_kiss_matcher,
    register_by_open3d,
)
from flowmatch.registration.evaluation.trust import Interval, TrustScores, measure_trust
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.store import available, load_descriptor

EXAMPLES = (
    "flowmatch eval registration 3dmatch/7-scenes-redkitchen",
    "flowmatch eval registration recording indoor_pair --trust --model auto --pairs-per-kind 40",
)
TRUST = "Trust"
_Methods: TypeAlias = dict[str, Method]


def command(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER",
            help="Folders of scenes of the 3DMatch benchmark (cloud_bin_*.ply, gt.log, gt.info), "
            "of depth frames (depth/, poses.txt, intrinsics.txt), with src.*, ref.* and gt.npy, or "
            "of such folders.",
            show_default=False,
        ),
    ] = None,
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
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Method: auto, fpfh, a name that flowmatch weights list prints, kiss-matcher or "
            "open3d; it may be given several times.",
            show_default="all that are installed",
            rich_help_panel=METHODS,
        ),
    ] = None,
    rotated: Annotated[
        bool,
        typer.Option(
            help="Further rows for fragments that are rotated at random.", rich_help_panel=METHODS
        ),
    ] = True,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Shares of right and of wrong registrations that are trusted, instead of the "
            "measures of 3DMatch.",
            rich_help_panel=TRUST,
        ),
    ] = False,
    count: Annotated[
        int,
        typer.Option(
            "--pairs-per-kind",
            min=1,
            help="Number of pairs of each kind from the folders.",
            rich_help_panel=TRUST,
        ),
    ] = 20,
    rendered: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of rendered pairs of each kind, beside the folders or instead of them.",
            rich_help_panel=TRUST,
        ),
    ] = 0,
    frames: Annotated[
        int,
        typer.Option(
            "--frames-per-fragment",
            min=1,
            help="Number of consecutive depth frames that are integrated into a scan, for --trust.",
            rich_help_panel=TRUST,
        ),
    ] = 1,
    voxel: ScanVoxel = None,
    keypoints: ScanKeypoints = RegisterOptions.keypoints,
    seed: ScanSeed = 0,
) -> None:
    """Measure descriptors and registrations of scans.

    The motions between the fragments must be known. FPFH is measured beside the networks; auto is
    what register does; and KISS-Matcher, refined by small-gicp, and Open3D, if installed.
    """
    check_target(json)
    folders = folders or []
    if not folders and not (trust and rendered):
        raise ValueError("a FOLDER is needed, or --trust with --rendered")
    options = RegisterOptions(voxel=voxel, keypoints=keypoints, seed=seed)
    methods = _methods(models, weights, device)
    content: dict[str, Any] = {"folders": [str(folder) for folder in folders]}
    if trust:
        with progress_bar(transient=True) as bar:
            verdicts = measure_trust(
                {name: as_registrar(method) for name, method in methods.items()},
                folders=folders,
                pairs=count,
                rendered=rendered,
                frames_per_fragment=frames,
                max_depth=max_depth,
                options=options,
                progress=StageBars(bar),
            )
        content["trust"] = [row._asdict() for row in verdicts]
        if json is None or not write_json(json, content):
            print_table(_trust_table(verdicts), TRUST_LEGEND)
        return
    pairs = [p for folder in folders for p in find_fragments(folder, max_depth=max_depth)]
    with progress_bar(transient=True) as bar:
        rows = evaluate(
            pairs,
            methods,
            options,
            rotated=(False, True) if rotated else (False,),
            progress=StageBars(bar),
        )
    content["scores"] = [row._asdict() for row in rows]
    if json is None or not write_json(json, content):
        print_table(_table(rows), _legend(len(pairs)))


def _methods(models: list[str] | None, weights: Path | None, device: str | None) -> _Methods:
    """Return the methods to measure, by the names in the table."""
    if weights is not None:
        own = load_descriptor(weights=weights, device=device)
        return {"flowmatch": own, "FPFH": "fpfh"} | _peers()
    if models is None:
        networks = {name: load_descriptor(name, device=device) for name in available()}
        automatic: _Methods = {"auto": as_registrar("auto")} if networks else {}
        return {**networks, "FPFH": "fpfh"} | automatic | _peers()
    methods: _Methods = {}
    for model in models:
        if model == "auto":
            methods["auto"] = as_registrar("auto")
        elif model == "fpfh":
            methods["FPFH"] = "fpfh"
        elif model == "kiss-matcher":
            methods["KISS-Matcher"] = register_by_kiss_matcher
        elif model == "open3d":
            methods["Open3D"] = register_by_open3d
        else:
            methods[model] = load_descriptor(model, device=device)
    return methods


def _peers() -> _Methods:
    peers: _Methods = {}
    if kiss_matcher_is_installed():
        peers["KISS-Matcher"] = register_by_kiss_matcher
    if open3d_is_installed():
        peers["Open3D"] = register_by_open3d
    return peers


def _trust_table(rows: list[TrustScores]) -> Table:
    table = number_table(
        "pairs", "right", "trusted", "95 %", "wrong", "trusted", "95 %", "cm", "CPU s"
    )
    for row in rows:
        table.add_row(
            f"{row.kind}, {row.method}",
            str(row.pairs),
            *(str(row.right), str(row.right_trusted), _range(row.right, row.right_interval)),
            *(str(row.wrong), str(row.wrong_trusted), _range(row.wrong, row.wrong_interval)),
            "-" if math.isnan(row.error) else f"{100 * row.error:.1f}",
            f"{row.seconds:.1f}",
        )
    return table


def _range(total: int, interval: Interval) -> str:
    return f"{100 * interval.low:.0f}-{100 * interval.high:.0f}" if total else "-"


TRUST_LEGEND = "\n".join(
    [
        "right: within four voxels (root mean square; 20 cm in a room); trusted of the right ones",
        "and of the wrong ones, with 95 % intervals in percent. Where nothing may be trusted, no",
        "motion is right: scans that do not overlap, or fit in several ways.",
        "cm: median over the right ones of the error at the median point.",
    ]
)


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
