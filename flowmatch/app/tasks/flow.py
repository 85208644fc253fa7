"""Optical flow of two pictures."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from flowmatch.app.tasks.result import TaskResult, read_picture, show, size_of
from flowmatch.draw import draw_arrows, flow_legend, flow_to_image
from flowmatch.flow import FlowOptions, estimate_both_ways
from flowmatch.imaging import Image, as_rgb
from flowmatch.io import write_flow, write_image
from flowmatch.io.confidence import write_confidence
from flowmatch.ops import warp
from flowmatch.progress import ProgressCallback

_HIDDEN = np.array((235, 60, 50), np.float32)  # of occluded pixels


def flow_of_pictures(
    first: Path,
    second: Path,
    *,
    folder: Path,
    device: str | None = None,
    model: str = "default",
    quality: str = "good",
    refine: bool | None = None,
    zoom: float = 1.0,
    format: str = "flo",
    max_flow: float | None = None,
    progress: ProgressCallback | None = None,
) -> TaskResult:
    """Estimate the flow between two pictures, both ways.

    Args:
        first: Picture.
        second: The later picture, of the same size.
        folder: Folder to write to.
        device: Device of the network; None takes a GPU if there is one.
        model: Name of flow weights.
        quality: ``"fast"``, ``"good"`` or ``"best"``.
        refine: Whether flows are refined; None leaves it to the quality.
        zoom: Factor by which the network's input is enlarged.
        format: Format of the flows: ``"flo"``, ``"png"``, ``"npz"`` or ``"pfm"``.
        max_flow: Motion of full colour, pixels; None or 0 takes the 99th percentile.
        progress: Called with the stages.

    Returns:
        Pictures of the flow, its arrows, occlusion and confidence, and the second picture warped
        by it; the flows, masks and confidences as files.

    Raises:
        ValueError: A picture cannot be read, the sizes differ, or an option is out of range.
    """
    options = FlowOptions(quality=quality, refine=refine, zoom=zoom)
    a, b = (read_picture(path).image for path in (first, second))
    if a.shape != b.shape:
        raise ValueError(f"the pictures must have the same size, got {size_of(a)} and {size_of(b)}")
    if progress:
        progress("estimating the flow both ways", 0, None)
    result = estimate_both_ways(a, b, model=model, device=device, options=options, confidence=True)
    if progress:
        progress("drawing", 0, None)
    lengths = np.linalg.norm(result.forward, axis=-1)
    scale = max_flow or float(f"{max(1.0, np.quantile(lengths, 0.99)):.3g}")
    colours = flow_to_image(result.forward, scale)
    files = [folder / f"flow.{format}", folder / f"flow_backward.{format}"]
    for file, flow in zip(files, (result.forward, result.backward), strict=True):
        write_flow(file, flow)
    masks = {"occluded.png": result.occluded, "occluded_backward.png": result.occluded_backward}
    for name, mask in masks.items():
        write_image(folder / name, mask.astype(np.uint8) * 255)
    write_confidence(folder / "confidence.png", result.confidence)
    write_image(folder / "flow_colours.png", colours)
    hidden, sure = float(result.occluded.mean()), float((result.confidence > 0.5).mean())
    named = ("flow_colours.png", "arrows.png", *masks, "confidence.png", "second_warped.png")
    return TaskResult(
        summary=f"Flow of {size_of(a)}, {np.median(lengths):.2f} pixels in the median.",
        facts=(
            ("Median motion", f"{np.median(lengths):.2f} px"),
            ("95th percentile", f"{np.quantile(lengths, 0.95):.2f} px"),
            ("Longest motion", f"{lengths.max():.2f} px"),
            ("Occluded pixels", f"{hidden:.1%}"),
            ("Probably right to 1 px", f"{sure:.1%} of the pixels"),
        ),
        shown=(
            show(
                folder / "flow_with_wheel.png", _with_wheel(colours, scale),
                f"Flow: hue is direction, full colour is {scale:.3g} px",
            ),
            show(
                folder / "arrows.png", draw_arrows(a, result.forward),
                "Arrows on the first picture",
            ),
            show(
                folder / "occlusion.png", _marked(a, result.occluded),
                "Occlusion: red pixels are hidden in the second picture",
            ),
            show(
                folder / "confidence_shown.png", _gray(result.confidence),
                "Confidence: white is surely right to 1 px",
            ),
            show(folder / "first.png", a, "First picture"),
            show(
                folder / "second_warped.png", _warp(b, result.forward),
                "Second picture warped by the flow: it should equal the first",
            ),
        ),
        files=(*files, *(folder / name for name in named)),
    )  # fmt: skip


def _with_wheel(colours: Image, scale: float) -> Image:
    """Return the colours with the colour wheel in the lower right corner, if there is room."""
    side = max(64, min(colours.shape[:2]) // 4)
    if 2 * side > min(colours.shape[:2]):
        return colours
    picture = colours.copy()
    picture[-side:, -side:] = flow_legend(side, scale)
    return picture


def _marked(image: Image, mask: NDArray[np.bool_]) -> Image:
    """Return a paler picture with the pixels of a mask in red."""
    pale = 255 - 0.6 * (255 - image.astype(np.float32))
    pale[mask] = 0.25 * pale[mask] + 0.75 * _HIDDEN
    return np.asarray(np.rint(pale), np.uint8)


def _gray(share: NDArray[np.float32]) -> Image:
    return as_rgb(np.rint(255 * share).astype(np.uint8))


def _warp(second: Image, flow: NDArray[np.float32]) -> Image:
    image, field = (
        torch.from_numpy(array).permute(2, 0, 1)[None].float() for array in (second, flow)
    )
    warped = warp(image, field)[0].permute(1, 2, 0).round().clamp(0, 255)
    return np.ascontiguousarray(warped.numpy(), np.uint8)
