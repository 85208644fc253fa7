"""``flowmatch match``: matches of two images, or of thousands of pairs."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import TextColumn

from flowmatch.cli._messages import (
    messages,
    progress_bar,
)
from flowmatch.cli._networks import descriptor_name, descriptor_network
from flowmatch.cli._options import (
    DeviceName,
    Magnification,
    Precision,
    check_target,
)
from flowmatch.devices import choose_device
from flowmatch.draw import draw_matches
from flowmatch.io import IMAGE_SUFFIXES, read_image, write_image
from flowmatch.matching.files import MATCH_SUFFIXES, write_matches
from flowmatch.matching.filter import find_similarity
from flowmatch.matching.match import match_images
from flowmatch.matching.pair_list import (
    PairOptions,
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
    if pairs is None:
        _refuse(camera is not None and model != "essential", "--camera needs --model essential")
        _refuse(
            root is not None or colmap or overwrite, "--root, --colmap, --overwrite need --pairs"
        )
        first, second = _two_images(images)
        targets = _checked_outputs(output)
        geometry = _model(model, "homography")
        network = descriptor_network(descriptor, device)
        more = {"intrinsics": _intrinsics(camera)} if camera is not None else {}
        more |= {"decide": _decision(decide, device), "above": above, "model": geometry}
        _match_two(network, first, second, targets, options | more)
    else:
        _refuse(bool(images) or camera is not None, "--pairs takes no images and no --camera")
        _refuse(len(output or []) != 1, "--pairs needs one -o FOLDER")
        assert output is not None
        network = descriptor_network(descriptor, device)
        about = PairOptions(
            descriptor=descriptor_name(descriptor),
            model=_model(model, "fundamental"),
            decide=descriptor_name(decide) if decide else None,
            above=above,
            **options,
        )
        networks = network, _decision(decide, device)
        _match_list(networks, pairs, root or pairs.parent, output[0], about, colmap, overwrite)


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


def _model(name: str | None, otherwise: str) -> str | None:
    if name is None:
        return otherwise
    return None if name == "none" else name


def _decision(name: str | None, device: str | None) -> Any:
    return find_similarity(name, choose_device(device)) if name else None


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
    network: Any, first: Path, second: Path, targets: list[Path], options: dict[str, Any]
) -> None:
    a, b = read_image(first), read_image(second)
    matches = match_images(network, a, b, **options)
    for path in targets:
        if path.suffix.lower() in MATCH_SUFFIXES:
            write_matches(path, matches, f"{first} {second}")
        else:
            write_image(path, draw_matches(a, b, *matches.points(), matches.inlier))
    line = (
        f"{len(matches.pairs)} matches of {len(matches.first.xy)} and {len(matches.second.xy)} "
        "keypoints"
    )
    if matches.model is not None:
        found = f"{matches.inlier.sum()} inliers of" if matches.matrix is not None else "no"
        article = "" if matches.matrix is None else "an " if matches.model == "essential" else "a "
        kind = matches.model if matches.model == "homography" else f"{matches.model} matrix"
        line += f", {found} {article}{kind}"
    messages.print(line + (f", in {', '.join(map(str, targets))}" if targets else ""))


def _match_list(
    networks: tuple[Any, Any],
    source: Path,
    root: Path,
    folder: Path,
    options: PairOptions,
    colmap: bool,
    overwrite: bool,
) -> None:
    listed = read_pairs(source)
    latest = PairReport()
    with progress_bar(FAILURES) as bar:
        task = bar.add_task("match", total=len(listed), failed="")

        def progress(report: PairReport) -> None:
            nonlocal latest
            latest = report
            done = report.computed + report.kept + len(report.failed)
            failed = f"{len(report.failed)} failed" if report.failed else ""
            bar.update(task, completed=done, failed=failed)

        try:
            match_pairs(
                networks[0], listed, root, folder, options,
                decide=networks[1], overwrite=overwrite, progress=progress,
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
