"""Pictures of registrations: points splatted, seen from three sides, before and after."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Image
from flowmatch.draw import side_by_side
from flowmatch.geometry import transform_points
from flowmatch.registration.keypoints import Points, as_points
from flowmatch.registration.register import Registration

# Orange and blue are told apart by everyone; then Okabe and Ito's other colours.
COLOURS = (
    (230, 110, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167),
    (240, 200, 40), (86, 180, 233), (120, 60, 20), (110, 110, 110),
)  # fmt: skip
_LINE = (0, 130, 60)
_MOST_POINTS = 60_000
_MOST_LINES = 60


def colour_of(scan: int) -> tuple[int, int, int]:
    """Return the colour of a scan by its number, RGB."""
    return COLOURS[scan % len(COLOURS)]


def splat(
    scans: Sequence[ArrayLike],
    axes: ArrayLike,
    size: tuple[int, int] = (360, 480),
    *,
    lines: ArrayLike | None = None,
) -> Image:
    """Draw points as seen from far away, the nearer ones over the others, in their scan's colour.

    Args:
        scans: Each ``[N, 3]``, metres.
        axes: Rows to the right, down and away, ``[3, 3]``.
        size: Height and width, pixels.
        lines: Ends of lines over it, ``[K, 2, 3]``.

    Returns:
        Picture ``[H, W, 3]`` on white.

    Raises:
        ValueError: Wrong shapes.

    Example:
        >>> splat([[[0.0, 0, 0], [1, 1, 1]]], np.eye(3), (32, 32)).shape
        (32, 32, 3)
    """
    clouds = [_thinned(as_points(scan, "scan")) for scan in scans]
    turn = np.asarray(axes, np.float64)
    if turn.shape != (3, 3):
        raise ValueError(f"axes must be [3, 3], got {list(turn.shape)}")
    picture = np.full((*size, 3), 255, np.uint8)
    every = np.concatenate([cloud @ turn.T for cloud in clouds])
    if len(every) == 0:
        return picture
    # Percentiles: one stray point must not make all else small.
    low, high = np.percentile(every[:, :2], [0.5, 99.5], axis=0)
    height, width = size
    scale = 0.92 * min((width, height) / np.maximum(high - low, 1e-9))
    shift = np.array([width, height]) / 2 - scale * (low + high) / 2
    paint = np.repeat(
        [colour_of(k) for k in range(len(clouds))], [len(cloud) for cloud in clouds], axis=0
    )
    depth = every[:, 2]
    near, far = np.percentile(depth, [2, 98])
    # What is far is paler, which tells surfaces apart that lie behind each other.
    pale = np.clip((depth - near) / max(far - near, 1e-9), 0, 1)[:, None] * 0.6
    shades = np.rint(paint + pale * (255 - paint)).astype(np.uint8)
    order = np.argsort(-depth, kind="stable")
    u, v = np.rint(every[order, :2] * scale + shift).astype(np.int64).T
    for du, dv in ((0, 0), (1, 0), (0, 1), (1, 1)):
        inside = (u + du >= 0) & (u + du < width) & (v + dv >= 0) & (v + dv < height)
        picture[v[inside] + dv, u[inside] + du] = shades[order][inside]
    if lines is not None and np.size(lines):
        ends = np.asarray(lines, np.float64) @ turn.T
        for start, end in np.rint(ends[..., :2] * scale + shift).astype(int).tolist():
            cv2.line(picture, start, end, _LINE, 1, cv2.LINE_AA)
    return picture


def draw_registration(source: ArrayLike, target: ArrayLike, found: Registration) -> Image:
    """Draw two scans before and after they are laid together, each from three sides.

    Before, they stand side by side, lines between inliers; after, the source is moved.

    Args:
        source: ``[N, 3]``, metres; orange.
        target: ``[M, 3]``; blue.
        found: What `register` found.

    Returns:
        Picture, two rows of three views.
    """
    first, second = as_points(source, "source"), as_points(target, "target")
    moved = transform_points(found.motion, first)
    frame = _upright(np.concatenate([moved, second]))
    ends = found.correspondences[found.inliers]
    ends = ends[:: max(1, -(-len(ends) // _MOST_LINES))]
    before, after = [], []
    for name, axes in _views(frame):
        aside = _beside(first, second, axes)
        lines = np.stack([ends[:, 0] + aside, ends[:, 1]], axis=1)
        before.append((f"before, {name}", splat([first + aside, second], axes, lines=lines)))
        after.append((f"after, {name}", splat([moved, second], axes)))
    labels, pictures = zip(*before, *after, strict=True)
    return side_by_side(*pictures, labels=labels, columns=3)


def draw_merged(scans: Sequence[ArrayLike], motions: ArrayLike) -> Image:
    """Draw several scans before and after they are laid together, each from three sides.

    Args:
        scans: ``[N, 3]`` each, metres; in the order of `COLOURS`.
        motions: ``[S, 4, 4]``, each to one frame.

    Returns:
        Picture, two rows of three views.
    """
    clouds = [as_points(scan, "scan") for scan in scans]
    moved = [
        transform_points(motion, cloud)
        for motion, cloud in zip(np.asarray(motions), clouds, strict=True)
    ]
    views = _views(_upright(np.concatenate(moved)))
    rows = (("before", clouds), ("after", moved))
    labels = [f"{when}, {name}" for when, _ in rows for name, _ in views]
    pictures = [splat(which, axes) for _, which in rows for _, axes in views]
    return side_by_side(*pictures, labels=labels, columns=3)


def draw_pair(
    source: ArrayLike, target: ArrayLike, motion: ArrayLike, size: tuple[int, int] = (240, 320)
) -> Image:
    """Draw two scans whose motion is known: each as its camera saw it, then both, and from above.

    Args:
        source: ``[N, 3]``, metres.
        target: ``[M, 3]``.
        motion: ``[4, 4]``, source to target.
        size: Of each of the four pictures, height and width, pixels.

    Returns:
        Picture, one row.
    """
    moved = transform_points(motion, source)
    ahead = np.eye(3)
    above = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    return side_by_side(
        splat([source], ahead, size),
        splat([np.zeros((0, 3)), target], ahead, size),
        splat([moved, target], ahead, size),
        splat([moved, target], above, size),
        labels=["source", "target", "together", "together, from above"],
        columns=4,
    )


def _thinned(cloud: Points) -> Points:
    if len(cloud) <= _MOST_POINTS:
        return cloud
    return cloud[np.random.default_rng(0).permutation(len(cloud))[:_MOST_POINTS]]


def _upright(points: Points) -> NDArray[np.float64]:
    """Return the cloud's own axes as rows: the longest to the right, the shortest away."""
    _, axes = np.linalg.eigh(np.cov(points.T))
    frame = axes.T[::-1].copy()
    if np.linalg.det(frame) < 0:
        frame[2] *= -1
    return frame


def _views(frame: NDArray[np.float64]) -> list[tuple[str, NDArray[np.float64]]]:
    right, down, away = frame
    return [
        ("along its shortest axis", np.stack([right, down, away])),
        ("along its middle axis", np.stack([right, away, -down])),
        ("along its longest axis", np.stack([down, away, right])),
    ]


def _beside(first: Points, second: Points, axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shift that puts the first scan to the left of the second, with a gap."""
    a, b = first @ axes.T, second @ axes.T
    right = np.percentile(a[:, 0], 99.5)
    left = np.percentile(b[:, 0], 0.5)
    gap = 0.05 * (np.ptp(a[:, 0]) + np.ptp(b[:, 0]))
    middle = np.median(b[:, 1:], axis=0) - np.median(a[:, 1:], axis=0)
    shift: NDArray[np.float64] = np.array([left - right - gap, *middle]) @ axes
    return shift
