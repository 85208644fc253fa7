"""``flowmatch eval matching``: descriptors beside each other, on images with known homographies."""

import json
import math
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from flowmatch.cli._messages import (
    messages,
    progress_bar,
)
from flowmatch.cli._options import (
    DeviceName,
    Magnification,
    Precision,
)
from flowmatch.cli._tables import (
    number_table,
    stdout_console,
)
from flowmatch.cli.eval._patches import eval_brown, eval_hpatches
from flowmatch.devices import choose_device
from flowmatch.matching.data.sequences import find_image_pairs
from flowmatch.matching.describe import load_descriptor
from flowmatch.matching.evaluation.evaluate import evaluate
from flowmatch.matching.evaluation.scores import Evaluation, Row
from flowmatch.matching.filter import load_comparator

BASELINES = {"SIFT": "sift", "RootSIFT": "rootsift", "ORB": "orb"}

# Beyond this many sequences the table shows the means only; JSON has them all.
_MOST_SEQUENCES = 20


def command(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            help="HPatches or Oxford sequences: images 1, 2, ... with H_1_2 or H1to2p.",
            show_default=False,
        ),
    ] = None,
    hpatches: Annotated[
        Path | None,
        typer.Option(
            help="Instead of DIR: HPatches' patches (ref.png, e1.png, ...) and its three tasks.",
            show_default=False,
        ),
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option(help="With --hpatches: the benchmark's tasks/.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="Of --lists: a, b, c, full, illum, view.")] = "full",
    brown: Annotated[
        Path | None,
        typer.Option(
            help="Instead of DIR: Brown's patches (patches0000.bmp, info.txt, m50_*.txt).",
            show_default=False,
        ),
    ] = None,
    pairs_file: Annotated[
        Path | None,
        typer.Option("--pairs", help="With --brown: which m50_*.txt.", show_default=False),
    ] = None,
    descriptor: Annotated[
        list[str] | None,
        typer.Option(
            help="Weights that ship, by name, .safetensors of your own, or published weights; may "
            "be given several times. Without, those that match uses.",
            show_default=False,
        ),
    ] = None,
    decide: Annotated[
        list[str] | None,
        typer.Option(
            help="siam, 2ch, or a file: a network that judges what the first descriptor found; may "
            "be given several times.",
            show_default=False,
        ),
    ] = None,
    magnification: Magnification = None,
    detector: Annotated[str, typer.Option(help="sift, orb or grid.")] = "sift",
    keypoints: Annotated[int, typer.Option(help="At most, in each image.")] = 2000,
    device: DeviceName = None,
    precision: Precision = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    baselines: Annotated[bool, typer.Option(help="Also SIFT, RootSIFT and ORB (OpenCV).")] = True,
) -> None:
    """Compare descriptors at the same keypoints and number of matches."""
    if sum(given is not None for given in (folder, hpatches, brown)) != 1:
        raise ValueError("expected one of DIR, --hpatches and --brown")
    where = choose_device(device)
    found = _by_name(descriptor or ["default"], lambda name: load_descriptor(name, where))
    methods: dict[str, Any] = {name: (network, magnification) for name, network in found.items()}
    methods |= BASELINES if baselines else {}
    networks = {name: m[0] if isinstance(m, tuple) else m for name, m in methods.items()}
    decisions = _by_name(decide or [], lambda name: load_comparator(name, where))
    if hpatches is not None:
        eval_hpatches(hpatches, lists, split, networks, as_json)
    elif brown is not None:
        eval_brown(brown, pairs_file, networks | decisions, as_json)
    else:
        assert folder is not None
        options = {"filter_models": decisions, "detector": detector, "keypoints": keypoints}
        options |= {"precision": precision}
        _eval_sequences(folder, methods, options, as_json, str(where))


def _by_name(names: Sequence[str], find: Callable[[str], Any]) -> dict[str, Any]:
    """Call what is found as its file is called; two of one name would be one row."""
    found: dict[str, Any] = {}
    for name in names:
        if Path(name).stem in found:
            raise ValueError(f"two are called {Path(name).stem}: rename the file {name}")
        found[Path(name).stem] = find(name)
    return found


def _eval_sequences(
    folder: Path, methods: dict[str, Any], options: dict[str, Any], as_json: bool, device: str
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
    if as_json:
        about = {"folder": str(folder), "keypoints": options["keypoints"], "device": device}
        typer.echo(json.dumps(about | evaluation.to_json(), indent=2, allow_nan=False))
        return
    console = stdout_console(110)
    console.print(_table(evaluation))
    console.print()
    console.print(_legend(evaluation, options["keypoints"], device))


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "matches": lambda row: _number(row.matches, 0),
    "MMA@3": lambda row: _number(100 * row.accuracy, 1),
    "recall": lambda row: _number(100 * row.recall, 1),
    "FPR95": lambda row: _number(100 * row.fpr95, 1),
    "mAP": lambda row: _number(100 * row.precision, 1),
    "AUC@3": lambda row: _number(100 * row.auc3, 1),
    "AUC@5": lambda row: _number(100 * row.auc5, 1),
    "AUC@10": lambda row: _number(100 * row.auc10, 1),
    "kept": lambda row: _number(row.kept, 0),
    "right": lambda row: _number(100 * row.purity, 1),
    "s/8k": lambda row: _number(row.seconds, 2),
}


def _table(evaluation: Evaluation) -> Table:
    """One block per sequence, group and mean, one line per method in it."""
    many = len({row.name for row in evaluation.sequences}) > _MOST_SEQUENCES
    groups = [row._replace(name=f"{row.name}, mean") for row in evaluation.groups]
    rows: Sequence[Row] = [
        *(() if many else evaluation.sequences),
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


def _order(rows: Sequence[Row]) -> Callable[[Row], int]:
    """Return a key that gathers the rows of a name, in the order in which they first appear."""
    places = {name: k for k, name in enumerate(dict.fromkeys(row.name for row in rows))}
    return lambda row: places[row.name]


def _number(value: float, decimals: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"


def _legend(evaluation: Evaluation, keypoints: int, device: str) -> str:
    lines = [
        f"{evaluation.mean[0].pairs} pairs, each weighing the same; at most {keypoints} keypoints "
        f"an image, the same for all; networks on {device}.",
        "matches: mutual nearest neighbours with the best ratios, as many for each method.",
        "MMA@3: percent of them within 3 px. recall: correct ones per keypoint that both images "
        "have.",
        "FPR95: percent of different patches accepted where 95 % of those of one point are.",
        "mAP: of all nearest neighbours ranked by distance. AUC: of the corner error of MAGSAC++'s "
        "homography, px.",
        "kept: matches that match keeps, by ratio and what a decision leaves; right: percent of "
        "them within 3 px.",
        "s/8k: seconds to describe 8000 keypoints, patches included, or to decide about 8000 "
        "matches.",
    ]
    if evaluation.skipped:
        lines.append(
            f"{len(evaluation.skipped)} pairs could not be read and do not count (see stderr)."
        )
    return "\n".join(lines)
