"""Variational refinement of a flow: the "+v" of the FlowNet paper."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Image, as_gray, resize

# The images are warped anew at each scale, so a few iterations at many scales find more than many
# at few; the last scale is used twice.
SCALES = (*(2 ** (-k / 4) for k in range(8, -1, -1)), 1.0)
ITERATIONS = 3
SMALLEST = 16  # smallest side, in pixels


def refine_flow(first: Image, second: Image, flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Refine a flow so that brightness and gradients agree, and smooth it elsewhere.

    Runs OpenCV's VariationalRefinement from a quarter of the resolution to the full resolution,
    with four scales per octave. It makes sub-pixel motion much more accurate; errors of more than a
    pixel are corrected only in part.

    Args:
        first: Image ``[H, W, 3]`` or ``[H, W]``, uint8, at least 16 pixels to a side.
        second: The later image, of the same size.
        flow: Flow from the first to the second, ``[H, W, 2]``, in pixels, finite.

    Returns:
        The refined flow, a new array ``[H, W, 2]``.

    Raises:
        ValueError: The sizes or types do not fit, or the flow is not finite.

    Example:
        >>> image = np.zeros((16, 24, 3), np.uint8)
        >>> refine_flow(image, image, np.zeros((16, 24, 2), np.float32)).shape
        (16, 24, 2)

    Reference:
        Dosovitskiy et al., FlowNet, ICCV 2015, section 5.1; the energy and the many scales of Brox
        et al., ECCV 2004.
    """
    grays = [as_gray(first, "first"), as_gray(second, "second")]
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
        small = [resize(gray, size) for gray in grays]
        initial = _resized(refined, size)
        # Only the change is enlarged, so that the flow keeps its detail.
        refined += _resized(_minimise(small, initial.copy()) - initial, (W, H))
    return refined


def _minimise(grays: Sequence[Any], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Minimise the energy at one scale; OpenCV writes the result into `flow`."""
    solver = cv2.VariationalRefinement.create()
    solver.setFixedPointIterations(ITERATIONS)
    return np.asarray(solver.calc(grays[0], grays[1], flow), np.float32)


def _resized(flow: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a flow to (width, height); its values scale with its size."""
    scale = np.array([size[0] / flow.shape[1], size[1] / flow.shape[0]], np.float32)
    if size == (flow.shape[1], flow.shape[0]):
        return flow
    interpolation = cv2.INTER_AREA if scale[0] < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(flow, size, interpolation=interpolation) * scale, np.float32)
