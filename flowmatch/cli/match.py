"""``flowmatch match``: matches of two images, or of thousands of pairs."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import TextColumn

from flowmatch.cli._messages import messages, progress_bar, report_interrupt
from flowmatch.cli._options import (
    INPUT,
    KEYPOINTS,
    MODEL,
    OUTPUT,
    DeviceName,
    Magnification,
    Precision,
    WhiteLevel,
    check_output_folder,
    check_target,
)
from flowmatch.devices import choose_device
from flowmatch.draw import draw_matches
from flowmatch.io import IMAGE_SUFFIXES, read_image, write_image
from flowmatch.matching.describe import load_descriptor
from flowmatch.matching.files import MATCH_SUFFIXES, write_matches
from flowmatch.matching.filter import load_comparator
from flowmatch.matching.match import Matches, match_images
from flowmatch.matching.options import MatchOptions
from flowmatch.matching.pair_list import (
    PairReport,
    check_colmap_names,
    match_pairs,
    read_pairs,
    write_colmap,
)

EXAMPLES = (
    "flowmatch match first.jpg second.jpg -o matches.png -o matches.npz",
    "flowmatch match --pairs pairs.txt --root photos -o matches --colmap",
)
GEOMETRY = "Geometry"
FAILURES = TextColumn("{task.fields[failed]}")


def command(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FIRST SECOND", help="Two images; none with --pairs.", show_default=False
        ),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            help="File to write: a picture (.png, .jpg) or matches (.npz, .csv, .json); may be "
            "given several times. With --pairs, a folder, which is created if it does not exist.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    colmap: Annotated[
        bool,
        typer.Option(
            "--colmap",
            help="Features and matches in the formats that COLMAP imports, in addition; with "
            "--pairs.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Computation of all pairs, also of those whose files exist; with --pairs.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text file with the names of two images in each line.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the images that --pairs names.",
            show_default="the folder of the list",
            rich_help_panel=INPUT,
        ),
    ] = None,
    white: WhiteLevel = None,
    model: Annotated[
        str,
        typer.Option(
            help="Descriptor: rootsift, sift, orb, a name that flowmatch weights list prints, or a "
            "file: .safetensors or published weights.",
            rich_help_panel=MODEL,
        ),
    ] = "default",
    filter: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Network that compares the patches of each match, rejects dissimilar ones and "
            "ranks the rest: siam, 2ch or a file.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    min_score: Annotated[
        float,
        typer.Option(
            help="Similarity that --filter demands; 0 is the decision boundary of the networks.",
            rich_help_panel=MODEL,
        ),
    ] = 0.0,
    device: DeviceName = None,
    precision: Precision = "float32",
    detector: Annotated[
        str,
        typer.Option(help="Keypoint detector: sift, orb or grid.", rich_help_panel=KEYPOINTS),
    ] = "sift",
    keypoints: Annotated[
        int,
        typer.Option(help="Maximum number of keypoints per image.", rich_help_panel=KEYPOINTS),
    ] = 8000,
    ratio: Annotated[
        float,
        typer.Option(
            help="Threshold of the ratio test: largest distance of a match over that of the second "
            "nearest neighbour; 1 accepts all.",
            rich_help_panel=KEYPOINTS,
        ),
    ] = 0.8,
    mutual: Annotated[
        bool,
        typer.Option(help="Restriction to mutual nearest neighbours.", rich_help_panel=KEYPOINTS),
    ] = True,
    magnification: Magnification = None,
    geometry: Annotated[
        str | None,
        typer.Option(
            help="Geometric model of the inliers: homography, fundamental, essential or none.",
            show_default="homography; with --pairs fundamental",
            rich_help_panel=GEOMETRY,
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(help="Maximum error of an inlier, pixels.", rich_help_panel=GEOMETRY),
    ] = 3.0,
    camera: Annotated[
        str | None,
        typer.Option(
            metavar="FX,FY,CX,CY",
            help="Focal lengths and principal point of both images, pixels, for --geometry "
            "essential.",
            show_default=False,
            rich_help_panel=GEOMETRY,
        ),
    ] = None,
) -> None:
    """Match two images, or the pairs of a list.

    The status is 1 if no more matches of two images agree than chance explains. A run over a list
    may be interrupted; the same command continues.
    """
    options: dict[str, Any] = {
        "detector": detector,
        "keypoints": keypoints,
        "ratio": ratio,
        "mutual": mutual,
        "threshold": threshold,
        "magnification": magnification,
        "precision": precision,
        "filter_model": filter,
        "min_score": min_score,
    }
    _check(filter is not None or min_score == 0, "--min-score needs --filter")
    target = choose_device(device)
    if pairs is None:
        _check(camera is None or geometry == "essential", "--camera needs --geometry essential")
        _check(
            root is None and not colmap and not overwrite,
            "--root, --colmap, --overwrite need --pairs",
        )
        first, second = _two_images(images)
        targets = _checked_outputs(output)
        intrinsics = _intrinsics(camera) if camera is not None else None
        chosen = MatchOptions(
            geometry=_geometry(geometry, "homography"), intrinsics=intrinsics, **options
        )
        network = load_descriptor(model, target)
        if filter:
            chosen = replace(chosen, filter_model=load_comparator(filter, target))
        _match_two(network, first, second, targets, chosen)
    else:
        _check(not images and camera is None, "--pairs takes no images and no --camera")
        _check(len(output or []) == 1, "--pairs needs one -o FOLDER")
        assert output is not None
        check_output_folder(output[0])
        chosen = MatchOptions(geometry=_geometry(geometry, "fundamental"), **options)
        models = model, target
        _match_list(models, pairs, root or pairs.parent, output[0], chosen, colmap, overwrite)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _two_images(images: list[Path] | None) -> tuple[Path, Path]:
    _check(len(images or []) == 2, f"expected two images, or --pairs, got {len(images or [])}")
    assert images is not None
    return images[0], images[1]


def _checked_outputs(output: list[Path] | None) -> list[Path]:
    for path in output or []:
        check_target(path, (*IMAGE_SUFFIXES, *MATCH_SUFFIXES))
    return output or []


def _geometry(name: str | None, default: str) -> str | None:
    if name is None:
        return default
    return None if name == "none" else name


def _intrinsics(camera: str) -> Any:
    try:
        fx, fy, cx, cy = (float(number) for number in camera.split(","))
    except ValueError:
        raise ValueError(f"--camera must be fx,fy,cx,cy in pixels, got {camera!r}") from None
    _check(
        bool(fx > 0 and fy > 0 and np.isfinite([fx, fy, cx, cy]).all()),
        f"--camera must have positive focal lengths and finite numbers, got {camera!r}",
    )
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return K, K


def _match_two(
    network: Any, first: Path, second: Path, targets: list[Path], options: MatchOptions
) -> None:
    a, b = read_image(first), read_image(second)
    matches = match_images(a, b, model=network, options=options)
    for path in targets:
        if path.suffix.lower() in MATCH_SUFFIXES:
            write_matches(path, matches, f"{first} {second}")
        else:
            write_image(path, draw_matches(a, b, *matches.points(), matches.inliers))
    files = f"in {', '.join(map(str, targets))}" if targets else "nothing was written (-o FILE)"
    messages.print(f"{_describe(matches)}, {files}")
    if not matches.trusted:
        raise typer.Exit(1)


def _describe(matches: Matches) -> str:
    line = (
        f"{len(matches.matches)} matches of {len(matches.keypoints0.xy)} and "
        f"{len(matches.keypoints1.xy)} keypoints"
    )
    geometry = matches.geometry
    if geometry is None:
        return line
    model = geometry if geometry == "homography" else f"{geometry} matrix"
    if matches.matrix is None:
        return f"{line}, no {model} agrees with them"
    line += f", {matches.inliers.sum()} inliers of {'an' if model[0] == 'e' else 'a'} {model}"
    return line if matches.trusted else f"{line}: no more than chance explains"


def _match_list(
    models: tuple[str, torch.device],
    source: Path,
    root: Path,
    folder: Path,
    options: MatchOptions,
    colmap: bool,
    overwrite: bool,
) -> None:
    pairs = read_pairs(source)
    if colmap:
        check_colmap_names(pairs)
    report = PairReport()
    with progress_bar(FAILURES) as bar:
        task = bar.add_task("match", total=len(pairs), failed="")

        def progress(stage: str, done: int, total: int | None) -> None:
            failed = f"{len(report.failed)} failed" if report.failed else ""
            bar.update(task, completed=done, failed=failed)

        with report_interrupt(bar, lambda: _summary(report, folder)):
            match_pairs(
                pairs, root, folder, model=models[0], device=models[1], options=options,
                overwrite=overwrite, report=report, progress=progress,
            )  # fmt: skip
    for pair, reason in report.failed:
        messages.print(f"failed: {pair.first} {pair.second}: {reason}")
    if colmap:
        write_colmap(folder / "colmap", folder, pairs, root)
    messages.print(_summary(report, folder) + (", with colmap/" if colmap else ""))
    _check(len(report.failed) < len(pairs), f"none of the {len(pairs)} pairs can be matched")


def _summary(report: PairReport, folder: Path) -> str:
    line = f"{report.computed} pair{'' if report.computed == 1 else 's'} matched"
    if report.kept:
        line += f", {report.kept} existed already"
    if report.failed:
        line += f", {len(report.failed)} failed"
    return f"{line}, in {folder}"
