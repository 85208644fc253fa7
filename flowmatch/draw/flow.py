"""Draw optical flow as colours, arrows and error maps."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.draw.picture import INK, checked_picture, draw_text, text_width
from flowmatch.imaging import Image

_PAPER = (255, 255, 255)
_DOUBT = 128  # gray of flow without any confidence


def flow_to_image(
    flow: ArrayLike, max_flow: float | None = None, *, confidence: ArrayLike | None = None
) -> Image:
    """Colour each flow vector as in the Middlebury benchmark: hue is direction, saturation length.

    Zero is white, `max_flow` is fully saturated, longer vectors are darkened to 75 %, unknown flow
    (NaN) is black. Rightward is red, downward yellow, leftward cyan, upward violet.

    Args:
        flow: Flow ``[H, W, 2]`` in pixels, u to the right and v down; NaN where unknown.
        max_flow: Length in pixels that gets full colour. None uses the longest vector of this
            field; for a video, pass one number for all frames, or the colours flicker.
        confidence: Confidences ``[H, W]``, 0 to 1: the colours fade to gray as they fall to 0.

    Returns:
        Picture ``[H, W, 3]``.

    Raises:
        ValueError: Wrong or different shapes, or `max_flow` is not positive.

    Example:
        >>> flow_to_image(np.array([[(0, 0), (2, 0), (np.nan, 0)]]), max_flow=2).tolist()
        [[[255, 255, 255], [255, 0, 0], [0, 0, 0]]]

    Reference:
        Baker et al., A Database and Evaluation Methodology for Optical Flow, IJCV 2011, figure 1;
        the colours are those of the authors' colorcode.cpp.
    """
    field, valid = _checked_flow(flow)
    # Adding 0 turns -0 into 0: both must lie at the red end of the colour wheel.
    u, v = np.moveaxis(field + 0.0, 2, 0)
    length = np.hypot(u, v)
    radius = (length / _full_scale(length, max_flow, "max_flow"))[..., None].astype(np.float32)
    position = ((np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(_WHEEL) - 1)).astype(np.float32)
    lower = position.astype(np.intp)
    share = (position - lower.astype(np.float32))[..., None]
    colour = _WHEEL[lower] + share * (_WHEEL[(lower + 1) % len(_WHEEL)] - _WHEEL[lower])
    colour = np.where(radius <= 1, 255 - radius * (255 - colour), 0.75 * colour)
    if confidence is not None:
        share = _checked_confidence(confidence, valid.shape)[..., None]
        colour = _DOUBT + share * (colour - _DOUBT)
    return np.where(valid[..., None], colour, 0).astype(np.uint8)


def flow_legend(size: int, max_flow: float) -> Image:
    """Draw the colour wheel of `flow_to_image` with its radius labelled in pixels.

    Args:
        size: Side of the picture in pixels, at least 64.
        max_flow: Flow at the rim, in pixels: the argument of `flow_to_image`.

    Returns:
        Picture ``[size, size, 3]`` on white.

    Raises:
        ValueError: `size` is below 64 or `max_flow` is not positive.

    Example:
        >>> flow_legend(128, max_flow=8).shape
        (128, 128, 3)
    """
    if size < 64:
        raise ValueError(f"size must be at least 64 pixels, got {size}")
    letters = max(11, size // 14)
    radius = (size - 1.6 * letters) / 2 - 1
    middle, foot = (size - 1) / 2, size - 0.7 * letters
    y, x = np.mgrid[:size, :size].astype(np.float64)
    x, y = x - middle, y - radius - 1
    scale = _full_scale(np.zeros(1), max_flow, "max_flow") / radius
    wheel = flow_to_image(np.stack([x, y], axis=-1) * scale, max_flow)
    # The rim fades over one pixel, as anti-aliased lines do.
    alpha = np.clip(radius - np.hypot(x, y) + 0.5, 0, 1)[..., None]
    picture: Image = (wheel * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    # A scale bar from the centre to the rim, and its length in pixels to the left.
    rim, tick = middle + radius, letters / 4
    bar = [(middle, foot - tick), (middle, foot + tick), (middle, foot)]
    bar += [(rim, foot), (rim, foot - tick), (rim, foot + tick)]
    # A shift of 4 bits makes OpenCV read sixteenths of a pixel.
    fixed = np.rint(np.array(bar) * 16).astype(np.int32)
    cv2.polylines(picture, [fixed], False, INK, 1 + size // 300, cv2.LINE_AA, 4)
    text = f"{max_flow:.4g} px"
    fitting = min(letters, 0.9 * middle / text_width(text, 1))
    left = middle - 0.4 * fitting - text_width(text, fitting)
    draw_text(picture, text, left, foot + 0.36 * fitting, fitting)
    return picture


def draw_arrows(
    image: ArrayLike, flow: ArrayLike, step: int | None = None, *, scale: float | None = None
) -> Image:
    """Draw flow as arrows on a regular grid over a picture.

    The arrows are white with a dark outline, readable on any picture. Unknown flow has no arrow,
    zero flow a dot.

    Args:
        image: Picture, uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        flow: Flow ``[H, W, 2]`` in pixels of the picture; NaN where unknown.
        step: Distance between arrows in pixels; None draws about 32 along the longer side.
        scale: Drawn length per length of flow. With None the longer arrows (the 95th percentile)
            just reach the next grid point; for videos, pass a number (1 is true length).

    Returns:
        Picture ``[H, W, 3]``.

    Raises:
        ValueError: Wrong shapes, different sizes, or `step` or `scale` not positive.

    Example:
        >>> draw_arrows(np.zeros((64, 96), np.uint8), np.ones((64, 96, 2)), step=16).shape
        (64, 96, 3)
    """
    picture = checked_picture(image)
    field, valid = _checked_flow(flow)
    if valid.shape != picture.shape[:2]:
        raise ValueError(
            "image and flow must have the same size, "
            f"got {list(picture.shape[:2])} and {list(valid.shape)}"
        )
    step = max(8, max(valid.shape) // 32) if step is None else step
    if step < 1 or (scale is not None and not scale > 0):
        raise ValueError(f"step and scale must be positive, got step={step}, scale={scale}")
    y, x = np.mgrid[step // 2 : valid.shape[0] : step, step // 2 : valid.shape[1] : step]
    y, x = y[valid[y, x]], x[valid[y, x]]
    vectors = field[y, x]
    if scale is None:
        lengths = np.hypot(*vectors.T)
        scale = step / max(float(np.quantile(lengths, 0.95)), 1e-6) if lengths.size else 1.0
    vectors = scale * vectors
    # Tips far outside the picture are clipped to the range of OpenCV's integers.
    limit = 2 * max(valid.shape) / np.maximum(np.hypot(*vectors.T), 1e-6)
    vectors *= np.minimum(limit, 1)[:, None]
    starts = np.stack([x, y], axis=-1)
    return _with_arrows(picture, starts, vectors, step)


def error_map(flow: ArrayLike, truth: ArrayLike, max_error: float | None = None) -> Image:
    """Colour the endpoint error of each pixel: dark blue is zero, yellow is `max_error` or more.

    The colour map (plasma) is perceptually uniform: equal steps of error look equal, also in gray.

    Args:
        flow: Estimated flow ``[H, W, 2]`` in pixels.
        truth: Ground truth of the same shape.
        max_error: Error in pixels that gets the last colour. None uses the 99th percentile, so
            that a few outliers do not hide the rest.

    Returns:
        Picture ``[H, W, 3]``; black where either flow is unknown.

    Raises:
        ValueError: Wrong or different shapes, or `max_error` is not positive.

    Example:
        >>> estimate, truth = np.zeros((1, 2, 2)), np.array([[(3, 4), (np.nan, 0)]])
        >>> error_map(estimate, truth, max_error=5).tolist()
        [[[240, 249, 33], [0, 0, 0]]]
    """
    (estimate, known), (target, valid) = _checked_flow(flow), _checked_flow(truth)
    if estimate.shape != target.shape:
        raise ValueError(
            "flow and truth must have the same shape, "
            f"got {list(estimate.shape)} and {list(target.shape)}"
        )
    valid = valid & known
    error = np.hypot(*np.moveaxis(estimate - target, 2, 0)) * valid
    if max_error is None and valid.any():
        max_error = float(np.quantile(error[valid], 0.99)) or None
    picture = _plasma(error / _full_scale(error, max_error, "max_error"))
    picture[~valid] = 0
    return picture


def error_legend(width: int, max_error: float) -> Image:
    """Draw the colours of `error_map` as a bar labelled in pixels.

    Args:
        width: Width of the picture in pixels, at least 96.
        max_error: Error of the last colour, in pixels: the argument of `error_map`.

    Returns:
        Picture ``[H, width, 3]`` on white, H about a ninth of `width`.

    Raises:
        ValueError: `width` is below 96 or `max_error` is not positive.

    Example:
        >>> error_legend(240, max_error=3).shape
        (26, 240, 3)
    """
    if width < 96:
        raise ValueError(f"width must be at least 96 pixels, got {width}")
    top = _full_scale(np.zeros(1), max_error, "max_error")
    letters, bar = max(11, width // 22), max(8, width // 24)
    margin = letters // 2
    picture = np.full((bar + 3 * letters // 2, width, 3), 255, np.uint8)
    picture[:bar, margin : width - margin] = _plasma(np.linspace(0, 1, width - 2 * margin)[None])
    for share in (0, 0.5, 1):
        text = f"{share * top:.4g}" + (" px" if share == 1 else "")
        left = margin + share * (width - 2 * margin - text_width(text, letters))
        draw_text(picture, text, left, bar + 1.1 * letters, letters)
    return picture


def _checked_flow(flow: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the flow ``[H, W, 2]``, zero where unknown, and the mask of known pixels."""
    field = np.asarray(flow, np.float64)
    if field.ndim != 3 or field.shape[2] != 2 or field.size == 0:
        raise ValueError(f"flow must be [H, W, 2], got {list(field.shape)}")
    valid = np.asarray(np.isfinite(field).all(axis=2))
    return np.where(valid[..., None], field, 0), valid


def _checked_confidence(confidence: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = np.asarray(confidence, np.float32)
    if values.shape != shape or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"confidence must be {list(shape)}, as the flow, and 0 to 1, got {list(values.shape)}"
        )
    return values


def _full_scale(values: NDArray[np.float64], limit: float | None, name: str) -> float:
    """Return the value of full colour: `limit` or else the largest value; never zero."""
    if limit is None:
        return float(values.max()) or 1.0
    if not (math.isfinite(limit) and limit > 0):
        raise ValueError(f"{name} must be a positive number of pixels, got {limit}")
    return float(limit)


def _middlebury_wheel() -> NDArray[np.float32]:
    """Return the 55 colours of colorcode.cpp, [55, 3] in 0 to 255, starting at red."""
    # Red, yellow, green, cyan, blue, magenta; more steps where the eye distinguishes more hues.
    corners = np.array([(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1)])
    changes = np.roll(corners, -1, axis=0) - corners
    steps = np.array([15, 6, 4, 11, 13, 6])
    # The C source divides integers, and subtracts the quotient where a channel falls.
    ramp = np.concatenate([255 * np.arange(count) // count for count in steps])[:, None]
    wheel = 255 * corners.repeat(steps, axis=0) + ramp * changes.repeat(steps, axis=0)
    return np.asarray(wheel, np.float32)


_WHEEL = _middlebury_wheel()


def _plasma(share: NDArray[np.float64]) -> Image:
    steps = np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
    bgr = cv2.applyColorMap(steps, cv2.COLORMAP_PLASMA)
    return np.array(bgr[..., ::-1], np.uint8, order="C")


def _with_arrows(
    picture: Image, starts: NDArray[Any], vectors: NDArray[np.float64], step: int
) -> Image:
    height, width, _ = picture.shape
    # Drawn four times larger and averaged: OpenCV's anti-aliased lines have integer widths only.
    white = np.zeros((4 * height, 4 * width), np.uint8)
    for start, vector in zip(starts, vectors, strict=True):
        corners = start + _arrow(vector, step) + 0.5
        cv2.fillPoly(white, [np.rint(4 * corners - 0.5).astype(np.int32)], 255)
    rim = 2 * round(4 * max(0.8, step / 30)) + 1
    dark = cv2.dilate(white, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim, rim)))
    drawn = picture.astype(np.float32)
    for mask, colour in ((dark, INK), (white, _PAPER)):
        share = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)[..., None] / 255
        drawn += share.astype(np.float32) * (np.array(colour, np.float32) - drawn)
    return np.rint(drawn).astype(np.uint8)


def _arrow(vector: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """Return the corners (x, y) of an arrow from the origin, or of a dot if its length is zero."""
    length = float(np.hypot(*vector))
    half = max(0.6, 0.04 * step)
    if length < 2 * half:
        angle = np.arange(0, 2 * np.pi, 0.5)
        return 1.5 * half * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    along = vector / length
    head = min(0.65 * length, max(0.32 * step, 5 * half))
    neck, barb = length - head, max(0.42 * head, 1.8 * half)
    corners = [(0, half), (neck, half), (neck, barb), (length, 0)]
    corners += [(neck, -barb), (neck, -half), (0, -half)]
    return np.asarray(np.array(corners) @ np.array([along, [-along[1], along[0]]]))
