"""``flowmatch align``: one picture laid on another, and a checkerboard of both."""

from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from flowmatch.align import BASELINES, align_images, available, load
from flowmatch.cli._messages import (
    messages,
)
from flowmatch.cli._options import (
    DeviceName,
    WeightsFile,
    check_target,
)
from flowmatch.devices import choose_device
from flowmatch.draw import checkerboard
from flowmatch.io import IMAGE_SUFFIXES, read_image, write_image

_NETWORK = "network"
_FALLBACK = "sift-affine"


def command(
    first: Annotated[Path, typer.Argument(metavar="A", help="Stays as it is.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Is laid on A.")],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Checkerboard of A and the warped B; beside it, *-warped.*, B."
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            help=f"{_NETWORK}, {', '.join(BASELINES)}; or auto: the network with --weights or if "
            f"weights ship, else {_FALLBACK}."
        ),
    ] = "auto",
    weights: WeightsFile = None,
    device: DeviceName = None,
    cells: Annotated[int, typer.Option(min=1, help="Squares along the longer side.")] = 8,
) -> None:
    """Warp B onto A by one affine and one thin-plate transform, and say which method did it.

    The status is 1 if the method found nothing to go by; B is then laid on A unmoved.
    """
    warped = output.with_name(f"{output.stem}-warped{output.suffix}")
    for target in (output, warped):
        check_target(target, IMAGE_SUFFIXES)
    name = _chosen(method, weights)
    a, b = read_image(first), read_image(second)
    network: nn.Module | str = name
    if name == _NETWORK:
        network = load(weights=weights, device=choose_device(device))
    alignment = align_images(a, b, model=network)
    laid = alignment.warp(b)
    write_image(warped, laid)
    write_image(output, checkerboard(a, laid, cells))
    about = f"the network in {weights}" if weights else name
    if method == "auto" and name == _FALLBACK:
        about += " (no alignment weights ship or were given)"
    if not alignment.found:
        messages.print(f"NOT ALIGNED: {name} found no transform, {second} is where it was")
        raise typer.Exit(1)
    messages.print(f"aligned by {about}, in {output} and {warped}")


def _chosen(method: str, weights: Path | None) -> str:
    known = ("auto", _NETWORK, *BASELINES)
    if method not in known:
        raise ValueError(f"--method must be one of {', '.join(known)}, got {method!r}")
    if method == "auto":
        return _NETWORK if weights or available() else _FALLBACK
    if method != _NETWORK and weights:
        raise ValueError(f"--weights are for the network, not for {method}")
    return method
