"""Variational refinement of any flow: the "+v" of the FlowNet paper."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2

# Each scale starts from a picture that is warped anew, so a few iterations at many scales find more
# than many at few; the last is seen twice.
SCALES = (*(2 ** (-k / 4) for k in range(8, -1, -1)), 1.0)
ITERATIONS = 3
SMALLEST = 16  # pixels to a side


def refine_flow(
    first: NDArray[np.uint8], second: NDArray[np.uint8], flow: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Move a flow to where brightness and gradients agree, and smooth it where there are none.

    Runs OpenCV's VariationalRefinement from a quarter of the resolution to all of it, four scales
    to an octave. It sharpens sub-pixel motion by far; motion that the flow has missed by more than
    a pixel it finds only in part.

    Args:
        first: Picture ``[H, W, 3]`` or ``[H, W]``, RGB or gray, at least 16 pixels to a side.
        second: The later picture, of the same size.
        flow: Flow from the first to the second, ``[H, W, 2]``, in pixels, finite.

    Returns:
        The refined flow, a new array ``[H, W, 2]``.

    Raises:
        ValueError: The sizes or types do not fit, or the flow is not finite.

    Example:
        >>> picture = np.zeros((16, 24, 3), np.uint8)
        >>> refine_flow(picture, picture, np.zeros((16, 24, 2), np.float32)).shape
        (16, 24, 2)

    Reference:
        Dosovitskiy et al., FlowNet, ICCV 2015, section 5.1; the energy and the many scales of Brox
        et al., ECCV 2004.
    """
    grays = [_to_gray(picture, name) for picture, name in ((first, "first"), (second, "second"))]
    H, W = grays[0].shape
    if grays[1].shape != (H, W) or flow.shape != (H, W, 2) or min(H, W) < SMALLEST:
        raise ValueError(
            "first, second and flow must have one size of at least 16 pixels to a side, got "
            f"{first.shape}, {second.shape} and {flow.shape}"
        )
    if not np.isfinite(flow).all():
        raise ValueError("flow must be finite to be refined, got NaN or infinity")
    refined = np.array(flow, np.float32)
    for scale in SCALES:
        size = (round(W * scale), round(H * scale))
        if min(size) < SMALLEST:
            continue
        small = [cv2.resize(gray, size, interpolation=cv2.INTER_AREA) for gray in grays]
        start = _resized(refined, size)
        # Only what changes is enlarged: the flow keeps its detail.
        refined += _resized(_minimise(small, start.copy()) - start, (W, H))
    return refined


def _minimise(grays: Sequence[Any], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Minimise at one scale; OpenCV writes the result into `flow`."""
    solver = cv2.VariationalRefinement.create()
    solver.setFixedPointIterations(ITERATIONS)
    return np.asarray(solver.calc(grays[0], grays[1], flow), np.float32)


def _resized(flow: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a flow to (width, height); its values change with its size."""
    scale = np.array([size[0] / flow.shape[1], size[1] / flow.shape[0]], np.float32)
    if size == (flow.shape[1], flow.shape[0]):
        return flow
    how = cv2.INTER_AREA if scale[0] < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(flow, size, interpolation=how) * scale, np.float32)


def _to_gray(picture: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
        came = f"{picture.dtype} {picture.shape}"
        raise ValueError(f"{name} must be uint8 [H, W, 3] or [H, W], got {came}")
    if picture.ndim == 2:
        return picture
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
