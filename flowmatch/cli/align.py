"""``flowmatch align``: one image warped onto another, the transform, and a checkerboard of both."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.align import BASELINES, Alignment, align_images, load, write_alignment
from flowmatch.align.files import ALIGNMENT_SUFFIXES
from flowmatch.cli._messages import messages
from flowmatch.cli._options import (
    MODEL,
    OUTPUT,
    DeviceName,
    WeightsFile,
    WhiteLevel,
    check_target,
)
from flowmatch.devices import choose_device
from flowmatch.draw import checkerboard
from flowmatch.imaging import Image
from flowmatch.io import IMAGE_SUFFIXES, write_image
from flowmatch.io.masked import read_masked

EXAMPLES = (
    "flowmatch align day.jpg night.jpg -o checkerboard.png",
    "flowmatch align day.jpg night.jpg -o transform.json -o night.png --apply night-labels.png",
)


def command(
    first: Annotated[
        Path, typer.Argument(metavar="FIRST", help="Reference image.", show_default=False)
    ],
    second: Annotated[
        Path,
        typer.Argument(
            metavar="SECOND", help="Image that is warped onto the first.", show_default=False
        ),
    ],
    output: Annotated[
        list[Path],
        typer.Option(
            "-o",
            "--output",
            help="File to write; may be given several times. A picture: the checkerboard of both "
            "images, and next to it, as *-warped.*, the warped second image. The transform: .json, "
            ".csv (points), .npz (the place of each pixel, for cv2.remap).",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ],
    apply: Annotated[
        list[Path] | None,
        typer.Option(
            "--apply",
            help="Further picture of the second image's size to warp in the same way; may be given "
            "several times. Written next to the first output, as *-warped.*.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    cells: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of squares along the longer side of the checkerboard.",
            rich_help_panel=OUTPUT,
        ),
    ] = 8,
    white: WhiteLevel = None,
    model: Annotated[
        str,
        typer.Option(
            help=f"Method: {', '.join(BASELINES)}, or a network: default, another name that "
            "flowmatch weights list prints, or a .safetensors file.",
            rich_help_panel=MODEL,
        ),
    ] = "default",
    weights: WeightsFile = None,
    device: DeviceName = None,
) -> None:
    """Warp one image onto another.

    The transform is an affine one, followed by a thin-plate spline if a network estimates it. The
    share of points that agree and their median error say how sure it is. The status is 1 if no
    transform is found; the images are then written as they are.
    """
    if weights and model in BASELINES:
        raise ValueError(f"--weights are for a network, not for {model}")
    for path in output:
        check_target(path, (*IMAGE_SUFFIXES, *ALIGNMENT_SUFFIXES))
    pictures = [path for path in output if path.suffix.lower() in IMAGE_SUFFIXES]
    others = {path: output[0].parent / f"{path.stem}-warped{path.suffix}" for path in apply or []}
    targets = [*output, *map(_warped_name, pictures), *others.values()]
    for target in targets:
        check_target(target)
    if len({*targets}) < len(targets):
        raise ValueError(f"two results would have one name: {', '.join(map(str, targets))}")
    a, b = read_masked(first).image, read_masked(second).image
    applied = {path: read_masked(path).image for path in others}
    for path, image in applied.items():
        if image.shape[:2] != b.shape[:2]:
            raise ValueError(
                f"{path}: expected the size of {second}, {_size(b)} pixels, got {_size(image)}"
            )
    is_baseline = model in BASELINES
    network = model if is_baseline else load(model, weights=weights, device=choose_device(device))
    alignment = align_images(a, b, model=network)
    result = alignment.warp(b)
    for path in output:
        if path in pictures:
            write_image(_warped_name(path), result)
            write_image(path, checkerboard(a, result, cells))
        else:
            write_alignment(path, alignment)
    for path, target in others.items():
        write_image(target, alignment.warp(applied[path]))
    quality = _describe_quality(alignment)
    if not alignment.found:
        messages.print(f"not aligned: {model} found no transform{quality}; {second} was not warped")
        raise typer.Exit(1)
    messages.print(f"aligned by {weights or model}{quality}, in {', '.join(map(str, targets))}")


def _warped_name(path: Path) -> Path:
    return path.with_name(f"{path.stem}-warped{path.suffix}")


def _size(image: Image) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def _describe_quality(alignment: Alignment) -> str:
    if alignment.inliers is None:
        return ""
    error = "" if alignment.error is None else f", median error {alignment.error:.1f} px"
    return f" ({100 * alignment.inliers:.0f} % of the points agree{error})"
