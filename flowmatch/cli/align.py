"""``flowmatch align``: one image warped onto another, and a checkerboard of both."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.align import BASELINES, align_images, load
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
from flowmatch.io import IMAGE_SUFFIXES, write_image
from flowmatch.io.masked import read_masked

EXAMPLES = (
    "flowmatch align day.jpg night.jpg -o checkerboard.png",
    "flowmatch align first.png second.png -o checkerboard.png --model sift-affine",
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
        Path,
        typer.Option(
            "-o",
            "--output",
            help="Checkerboard of both images to write; the warped second image is written next to "
            "it, as *-warped.*.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ],
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
    status is 1 if no transform is found; the second image is then written as it is.
    """
    if weights and model in BASELINES:
        raise ValueError(f"--weights are for a network, not for {model}")
    warped = output.with_name(f"{output.stem}-warped{output.suffix}")
    for target in (output, warped):
        check_target(target, IMAGE_SUFFIXES)
    a, b = read_masked(first).image, read_masked(second).image
    is_baseline = model in BASELINES
    network = model if is_baseline else load(model, weights=weights, device=choose_device(device))
    alignment = align_images(a, b, model=network)
    result = alignment.warp(b)
    write_image(warped, result)
    write_image(output, checkerboard(a, result, cells))
    if not alignment.found:
        messages.print(f"not aligned: {model} found no transform; {second} was not warped")
        raise typer.Exit(1)
    messages.print(f"aligned by {weights or model}, in {output} and {warped}")
