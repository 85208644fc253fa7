"""Alignment of one picture to another."""

from pathlib import Path

import numpy as np

from flowmatch.align import align_images, write_alignment
from flowmatch.app.tasks.result import TaskResult, read_picture, show, size_of
from flowmatch.draw import checkerboard
from flowmatch.progress import ProgressCallback


def alignment_of_pictures(
    first: Path,
    second: Path,
    *,
    folder: Path,
    device: str | None = None,
    model: str = "default",
    cells: int = 8,
    progress: ProgressCallback | None = None,
) -> TaskResult:
    """Warp one picture onto another that shows the same thing.

    Args:
        first: Reference picture.
        second: Picture to warp, of any size.
        folder: Folder to write to.
        device: Device of the network; None takes a GPU if there is one.
        model: ``"identity"``, ``"sift-affine"`` or a name of alignment weights.
        cells: Number of squares along the longer side of the checkerboard.
        progress: Called with the stages.

    Returns:
        The warped picture, a checkerboard of both, and the transform as JSON.

    Raises:
        ValueError: A picture cannot be read, or an option is out of range.
    """
    a, b = (read_picture(path).image for path in (first, second))
    if progress:
        progress("estimating the transform", 0, None)
    alignment = align_images(a, b, model=model, device=device)
    warped = alignment.warp(b)
    board = checkerboard(a, warped, cells)
    transform = folder / "transform.json"
    write_alignment(transform, alignment)
    quality = []
    if alignment.inliers is not None:
        quality.append(("Points that agree", f"{alignment.inliers:.0%}"))
    if alignment.error is not None:
        quality.append(("Median error", f"{alignment.error:.1f} px"))
    H, W = a.shape[:2]
    corners = np.array([(0, 0), (W - 1, 0), (W - 1, H - 1), (0, H - 1)], np.float64)
    names = ("upper left", "upper right", "lower right", "lower left")
    return TaskResult(
        summary="The second picture is warped onto the first."
        if alignment.found
        else "No transform was found; the second picture is shown as it is.",
        trusted=alignment.found,
        facts=(
            ("Sizes", f"{size_of(a)} and {size_of(b)}"),
            *quality,
            *(
                (f"Corner, {name}", f"at ({x:.1f}, {y:.1f}) of the second picture")
                for name, (x, y) in zip(names, alignment.points(corners).tolist(), strict=True)
            ),
        ),
        shown=(
            show(folder / "checkerboard.png", board, "Checkerboard: edges should meet"),
            show(folder / "first.png", a, "First picture"),
            show(folder / "warped.png", warped, "Second picture, warped"),
        ),
        files=(folder / "warped.png", folder / "checkerboard.png", transform),
    )
