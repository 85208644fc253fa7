"""``flowmatch eval matching``: descriptors at the same keypoints, on images or on patches."""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from flowmatch.cli._messages import messages, progress_bar
from flowmatch.cli._options import (
    INPUT,
    KEYPOINTS,
    METHODS,
    DetectorName,
    DetectorWeights,
    DeviceName,
    JsonFile,
    Magnification,
    MatcherName,
    MatcherWeights,
    Precision,
    WhiteLevel,
    check_target,
)
from flowmatch.cli._tables import number, number_table, percent, print_table, write_json
from flowmatch.cli.eval._patches import eval_brown, eval_hpatches
from flowmatch.devices import choose_device
from flowmatch.matching.data.sequences import find_image_pairs
from flowmatch.matching.describe import load_descriptor
from flowmatch.matching.evaluation.evaluate import evaluate
from flowmatch.matching.evaluation.scores import MatchingEvaluation, MatchingScores
from flowmatch.matching.filter import load_comparator
from flowmatch.matching.keypoints import DETECTORS
from flowmatch.matching.learned.detectors import load_detector
from flowmatch.matching.methods import load_methods
from flowmatch.matching.options import MatchOptions
from flowmatch.progress import counted

EXAMPLES = (
    "flowmatch eval matching hpatches-sequences --model default --filter siam",
    "flowmatch eval matching --brown notredame --json -",
)
BASELINES = {"SIFT": "sift", "RootSIFT": "rootsift", "ORB": "orb"}

# Beyond this number of sequences the table shows only the means; JSON holds all.
_MOST_SEQUENCES = 20


def command(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of HPatches or Oxford sequences: images 1, 2, ... with H_1_2 or H1to2p.",
            show_default=False,
        ),
    ] = None,
    hpatches: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of HPatches' patches (ref.png, e1.png, ...), for its three tasks; instead "
            "of sequences.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder tasks/ of the HPatches benchmark; with --hpatches.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(help="Split in --lists: a, b, c, full, illum or view.", rich_help_panel=INPUT),
    ] = "full",
    brown: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of Brown's patches (patches0000.bmp, info.txt, m50_*.txt); instead of "
            "sequences.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    pairs_file: Annotated[
        Path | None,
        typer.Option(
            "--pairs",
            metavar="FILE",
            help="File m50_*.txt of pairs; with --brown.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    json: JsonFile = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Descriptor: a name that flowmatch weights list prints, or a file: .safetensors "
            "or published weights; may be given several times.",
            show_default="default",
            rich_help_panel=METHODS,
        ),
    ] = None,
    filter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Network that filters the matches of the first descriptor: siam, 2ch or a file; "
            "may be given several times.",
            show_default=False,
            rich_help_panel=METHODS,
        ),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(help="Rows for SIFT, RootSIFT and ORB of OpenCV.", rich_help_panel=METHODS),
    ] = True,
    detector: DetectorName = "sift",
    detector_weights: DetectorWeights = None,
    matcher: MatcherName = "nearest",
    matcher_weights: MatcherWeights = None,
    keypoints: Annotated[
        int,
        typer.Option(help="Maximum number of keypoints per image.", rich_help_panel=KEYPOINTS),
    ] = 2000,
    magnification: Magnification = None,
    white: WhiteLevel = None,
    device: DeviceName = None,
    precision: Precision = "float32",
) -> None:
    """Measure descriptors at the same keypoints.

    Each method is scored on the same number of matches. The data are image sequences with known
    homographies, or patches without images. A --matcher, or a --detector that describes its
    keypoints itself, is a method with keypoints of its own, beside descriptors at those of sift.
    """
    if sum(given is not None for given in (folder, hpatches, brown)) != 1:
        raise ValueError("expected one of FOLDER, --hpatches and --brown")
    check_target(json)
    target = choose_device(device)
    models = _by_name(model or ["default"], lambda name: load_descriptor(name, target))
    methods: dict[str, Any] = {name: (network, magnification) for name, network in models.items()}
    methods |= BASELINES if baselines else {}
    networks = {name: m[0] if isinstance(m, tuple) else m for name, m in methods.items()}
    filters = _by_name(filter or [], lambda name: load_comparator(name, target))
    chosen = MatchOptions(
        detector=detector, detector_weights=detector_weights, keypoints=keypoints,
        matcher=matcher, matcher_weights=matcher_weights,
    )  # fmt: skip
    if folder is None and (detector, matcher) != ("sift", "nearest"):
        raise ValueError("--detector and --matcher need FOLDER: patches are without keypoints")
    if hpatches is not None:
        eval_hpatches(hpatches, lists, split, networks, json)
    elif brown is not None:
        eval_brown(brown, pairs_file, networks | filters, json)
    else:
        assert folder is not None
        options = {"filter_models": filters, "keypoints": keypoints, "precision": precision}
        options |= _detector_or_method(chosen, target)
        _eval_sequences(folder, methods, options, json, str(target))


def _detector_or_method(options: MatchOptions, device: torch.device) -> dict[str, Any]:
    """Return the detector of all descriptors, or a method with keypoints of its own."""
    if options.takes_model and options.matcher == "nearest":
        if options.detector in DETECTORS:
            return {"detector": options.detector}
        return {"detector": load_detector(str(options.detector), options.detector_weights, device)}
    model = "rootsift" if options.takes_model else "default"
    detector = "" if options.matcher == "loftr" else f"{options.detector}"
    name = " + ".join(filter(None, (detector, str(options.matcher))))
    return {"complete": {name: load_methods(model, device, options)}}


def _by_name(names: Sequence[str], find: Callable[[str], Any]) -> dict[str, Any]:
    """Return networks by the names of their files, which must differ."""
    networks: dict[str, Any] = {}
    for name in names:
        if Path(name).stem in networks:
            raise ValueError(f"two models are called {Path(name).stem}: rename the file {name}")
        networks[Path(name).stem] = find(name)
    return networks


def _eval_sequences(
    folder: Path,
    methods: dict[str, Any],
    options: dict[str, Any],
    json: Path | None,
    device: str,
) -> None:
    pairs = find_image_pairs(folder)
    with progress_bar(transient=True) as bar:
        task = bar.add_task("eval", total=len(pairs))
        evaluation = evaluate(
            pairs,
            methods,
            progress=lambda _, done, __: bar.update(task, completed=done),
            **options,
        )
    for name, reason in evaluation.skipped:
        messages.print(f"skipped {name}: {reason}")
    about = {"folder": str(folder), "keypoints": options["keypoints"], "device": device}
    if json is None or not write_json(json, about | evaluation.to_json()):
        legend = _legend(evaluation, options["keypoints"], device)
        print_table(_table(evaluation), legend, width=110)


_COLUMNS: dict[str, Callable[[MatchingScores], str]] = {
    "matches": lambda row: number(row.matches, 0),
    "MMA@3": lambda row: percent(row.accuracy),
    "recall": lambda row: percent(row.recall),
    "FPR95": lambda row: percent(row.fpr95),
    "mAP": lambda row: percent(row.precision),
    "AUC@3": lambda row: percent(row.auc3),
    "AUC@5": lambda row: percent(row.auc5),
    "AUC@10": lambda row: percent(row.auc10),
    "kept": lambda row: number(row.kept, 0),
    "right": lambda row: percent(row.purity),
    "s/8k": lambda row: number(row.seconds, 2),
}


def _table(evaluation: MatchingEvaluation) -> Table:
    """Return a table: a block for each sequence, group and mean, with a line for each method."""
    is_long = len({row.name for row in evaluation.sequences}) > _MOST_SEQUENCES
    groups = [row._replace(name=f"{row.name}, mean") for row in evaluation.groups]
    rows: Sequence[MatchingScores] = [
        *(() if is_long else evaluation.sequences),
        *groups,
        *evaluation.mean,
    ]
    table = number_table(*_COLUMNS)
    for name, block in groupby(sorted(rows, key=_order(rows)), key=lambda row: row.name):
        lines = list(block)
        count = f" ({lines[0].pairs} pairs)" if lines[0].pairs > 1 else ""
        table.add_row(f"{name}{count}", style="bold")
        for row in lines:
            table.add_row(f"  {row.method}", *(text(row) for text in _COLUMNS.values()))
        table.add_section()
    return table


def _order(rows: Sequence[MatchingScores]) -> Callable[[MatchingScores], int]:
    """Return a sort key that gathers the rows of a name, in order of first appearance."""
    places = {name: k for k, name in enumerate(dict.fromkeys(row.name for row in rows))}
    return lambda row: places[row.name]


def _legend(evaluation: MatchingEvaluation, keypoints: int, device: str) -> str:
    lines = [
        f"{evaluation.mean[0].pairs} pairs, equally weighted; at most {keypoints} keypoints "
        f"an image, the same for all; networks on {device}.",
        "matches: mutual nearest neighbours with the best ratios, the same number for each method.",
        "MMA@3: percent of them within 3 px. recall: correct ones per keypoint in both images.",
        "FPR95: percent of non-corresponding patches accepted with 95 % of corresponding ones.",
        "mAP: ranking of all nearest neighbours by distance. AUC: corner error of MAGSAC++'s "
        "homography, px.",
        "kept: matches after the ratio test and the filter, or all of a method with keypoints of "
        "its own; right: percent of them within 3 px.",
        "s/8k: seconds to describe 8000 keypoints, patches included, or to filter 8000 matches.",
    ]
    if evaluation.skipped:
        skipped = counted(len(evaluation.skipped), "pair")
        lines.append(f"{skipped} could not be read and do not count (see stderr).")
    return "\n".join(lines)
