"""``flowmatch match``: matches of two images, or of thousands of pairs."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import TextColumn

from flowmatch.cli._messages import (
    messages,
    progress_bar,
)
from flowmatch.cli._options import (
    DeviceName,
    Magnification,
    Precision,
    check_target,
)
from flowmatch.devices import choose_device
from flowmatch.draw import draw_matches
from flowmatch.io import IMAGE_SUFFIXES, read_image, write_image
from flowmatch.matching.describe import load_descriptor
from flowmatch.matching.files import MATCH_SUFFIXES, write_matches
from flowmatch.matching.filter import load_comparator
from flowmatch.matching.match import match_images
from flowmatch.matching.options import MatchOptions
from flowmatch.matching.pair_list import (
    PairReport,
    match_pairs,
    read_pairs,
    write_colmap,
)

FAILURES = TextColumn("{task.fields[failed]}")


def command(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="A B", help="Two images; none with --pairs.", show_default=False),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            help="What to write: a picture (.png, .jpg), matches (.npz, .csv, .json); may be given "
            "several times. With --pairs a folder.",
            show_default=False,
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Text file with two names of images a line.", show_default=False),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the names in --pairs; else the list's.", show_default=False),
    ] = None,
    colmap: Annotated[
        bool,
        typer.Option("--colmap", help="With --pairs: also features and matches to import."),
    ] = False,
    descriptor: Annotated[
        str,
        typer.Option(
            help="Weights that ship, by name; rootsift, sift, orb; or a file: .safetensors of your "
            "own, or published weights."
        ),
    ] = "default",
    detector: Annotated[str, typer.Option(help="sift, orb or grid.")] = "sift",
    keypoints: Annotated[int, typer.Option(help="At most, in each image.")] = 8000,
    ratio: Annotated[float, typer.Option(help="Of the ratio test; 1 accepts all.")] = 0.8,
    mutual: Annotated[bool, typer.Option(help="Accept mutual nearest neighbours only.")] = True,
    decide: Annotated[
        str | None,
        typer.Option(
            help="siam, 2ch, or a file: a network that looks at the patches of each match, rejects "
            "what is unlike and ranks the rest.",
            show_default=False,
        ),
    ] = None,
    above: Annotated[
        float, typer.Option(help="The similarity that --decide asks for; 0 is undecided.")
    ] = 0.0,
    model: Annotated[
        str | None,
        typer.Option(
            help="homography, fundamental, essential or none; else homography for two images and "
            "fundamental for pairs.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Error of an inlier, pixels.")] = 3.0,
    camera: Annotated[
        str | None,
        typer.Option(help="fx,fy,cx,cy of both images, for essential.", show_default=False),
    ] = None,
    magnification: Magnification = None,
    device: DeviceName = None,
    precision: Precision = "float32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --pairs: compute again what is there.")
    ] = False,
) -> None:
    """Match two images, or the pairs of a list.

    A list may be interrupted; the same command goes on where it stopped.
    """
    options: dict[str, Any] = {
        "detector": detector,
        "keypoints": keypoints,
        "ratio": ratio,
        "mutual": mutual,
        "threshold": threshold,
        "magnification": magnification,
        "precision": precision,
    }
    _refuse(decide is None and above != 0, "--above needs --decide")
    options |= {"filter_model": decide, "min_score": above}
    target = choose_device(device)
    if pairs is None:
        _refuse(camera is not None and model != "essential", "--camera needs --model essential")
        _refuse(
            root is not None or colmap or overwrite, "--root, --colmap, --overwrite need --pairs"
        )
        first, second = _two_images(images)
        targets = _checked_outputs(output)
        intrinsics = _intrinsics(camera) if camera is not None else None
        chosen = MatchOptions(
            geometry=_geometry(model, "homography"), intrinsics=intrinsics, **options
        )
        network = load_descriptor(descriptor, target)
        if decide:
            chosen = replace(chosen, filter_model=load_comparator(decide, target))
        _match_two(network, first, second, targets, chosen)
    else:
        _refuse(bool(images) or camera is not None, "--pairs takes no images and no --camera")
        _refuse(len(output or []) != 1, "--pairs needs one -o FOLDER")
        assert output is not None
        chosen = MatchOptions(geometry=_geometry(model, "fundamental"), **options)
        models = descriptor, target
        _match_list(models, pairs, root or pairs.parent, output[0], chosen, colmap, overwrite)


def _refuse(wrong: bool, reason: str) -> None:
    if wrong:
        raise ValueError(reason)


def _two_images(images: list[Path] | None) -> tuple[Path, Path]:
    _refuse(len(images or []) != 2, f"expected two images, or --pairs, got {len(images or [])}")
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
    _refuse(
        not (fx > 0 and fy > 0 and np.isfinite([fx, fy, cx, cy]).all()),
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
    line = (
        f"{len(matches.matches)} matches of {len(matches.keypoints0.xy)} and "
        f"{len(matches.keypoints1.xy)} keypoints"
    )
    geometry = matches.geometry
    if geometry is not None:
        count = f"{matches.inliers.sum()} inliers of" if matches.matrix is not None else "no"
        article = "" if matches.matrix is None else "an " if geometry == "essential" else "a "
        kind = geometry if geometry == "homography" else f"{geometry} matrix"
        line += f", {count} {article}{kind}"
    messages.print(line + (f", in {', '.join(map(str, targets))}" if targets else ""))


def _match_list(
    models: tuple[str, torch.device],
    source: Path,
    root: Path,
    folder: Path,
    options: MatchOptions,
    colmap: bool,
    overwrite: bool,
) -> None:
    listed = read_pairs(source)
    latest = PairReport()
    with progress_bar(FAILURES) as bar:
        task = bar.add_task("match", total=len(listed), failed="")

        def progress(stage: str, done: int, total: int | None) -> None:
            failed = f"{len(latest.failed)} failed" if latest.failed else ""
            bar.update(task, completed=done, failed=failed)

        try:
            match_pairs(
                listed, root, folder, model=models[0], device=models[1], options=options,
                overwrite=overwrite, report=latest, progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            bar.stop()
            again = "the same command, without --overwrite, goes on"
            messages.print(f"stopped: {_summary(latest, folder)}; {again}")
            raise typer.Exit(130) from None
    for pair, reason in latest.failed:
        messages.print(f"failed: {pair.first} {pair.second}: {reason}")
    if colmap:
        write_colmap(folder / "colmap", folder, listed)
    messages.print(_summary(latest, folder) + (", with colmap/" if colmap else ""))
    _refuse(len(latest.failed) == len(listed), f"none of the {len(listed)} pairs can be matched")


def _summary(report: PairReport, folder: Path) -> str:
    line = f"{report.computed} pair{'' if report.computed == 1 else 's'} matched"
    if report.kept:
        line += f", {report.kept} were there already"
    if report.failed:
        line += f", {len(report.failed)} failed"
    return f"{line}, in {folder}"
