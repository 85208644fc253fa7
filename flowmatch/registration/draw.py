"""Pictures of registrations: scans from three sides, before and after."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.draw import side_by_side
from flowmatch.geometry import transform_points
from flowmatch.imaging import Image
from flowmatch.registration.keypoints import Points, as_points
from flowmatch.registration.register import Registration

# Orange and blue can be distinguished with any colour vision; then Okabe and Ito's palette.
COLOURS = (
    (230, 110, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167),
    (240, 200, 40), (86, 180, 233), (120, 60, 20), (110, 110, 110),
)  # fmt: skip
_LINE = (0, 130, 60)
_MAX_POINTS = 60_000
_MAX_LINES = 60


def colour_of(scan: int) -> tuple[int, int, int]:
    """Return the RGB colour of a scan given its number."""
    return COLOURS[scan % len(COLOURS)]


def splat(
    scans: Sequence[ArrayLike],
    axes: ArrayLike,
    size: tuple[int, int] = (360, 480),
    *,
    lines: ArrayLike | None = None,
) -> Image:
    """Draw points in orthographic projection, near points over far ones, in their scan's colour.

    Args:
        scans: ``[N, 3]`` each, metres.
        axes: View axes as rows: right, down and away from the viewer, ``[3, 3]``.
        size: Height and width, pixels.
        lines: Ends of lines to draw over the points, ``[K, 2, 3]``.

    Returns:
        Image ``[H, W, 3]`` on white.

    Raises:
        ValueError: Wrong shapes.

    Example:
        >>> splat([[[0.0, 0, 0], [1, 1, 1]]], np.eye(3), (32, 32)).shape
        (32, 32, 3)
    """
    clouds = [_subsample(as_points(scan, "scan")) for scan in scans]
    rotation = np.asarray(axes, np.float64)
    if rotation.shape != (3, 3):
        raise ValueError(f"axes must be [3, 3], got {list(rotation.shape)}")
    picture = np.full((*size, 3), 255, np.uint8)
    points = np.concatenate([cloud @ rotation.T for cloud in clouds])
    if len(points) == 0:
        return picture
    # Percentiles, so that a single outlier does not shrink the scene.
    low, high = np.percentile(points[:, :2], [0.5, 99.5], axis=0)
    height, width = size
    scale = 0.92 * min((width, height) / np.maximum(high - low, 1e-9))
    shift = np.array([width, height]) / 2 - scale * (low + high) / 2
    paint = np.repeat(
        [colour_of(k) for k in range(len(clouds))], [len(cloud) for cloud in clouds], axis=0
    )
    depth = points[:, 2]
    near, far = np.percentile(depth, [2, 98])
    # Far points are paler, which separates surfaces behind each other.
    fade = np.clip((depth - near) / max(far - near, 1e-9), 0, 1)[:, None] * 0.6
    shades = np.rint(paint + fade * (255 - paint)).astype(np.uint8)
    order = np.argsort(-depth, kind="stable")
    u, v = np.rint(points[order, :2] * scale + shift).astype(np.int64).T
    for du, dv in ((0, 0), (1, 0), (0, 1), (1, 1)):
        inside = (u + du >= 0) & (u + du < width) & (v + dv >= 0) & (v + dv < height)
        picture[v[inside] + dv, u[inside] + du] = shades[order][inside]
    if lines is not None and np.size(lines):
        ends = np.asarray(lines, np.float64) @ rotation.T
        for start, end in np.rint(ends[..., :2] * scale + shift).astype(int).tolist():
            cv2.line(picture, start, end, _LINE, 1, cv2.LINE_AA)
    return picture


def draw_registration(source: ArrayLike, target: ArrayLike, result: Registration) -> Image:
    """Draw two scans before and after registration, each from three sides.

    Before, they are side by side, with lines between inliers; after, the source is moved.

    Args:
        source: ``[N, 3]``, metres; orange.
        target: ``[M, 3]``; blue.
        result: Registration of the two scans.

    Returns:
        Image of two rows of three views.
    """
    first, second = as_points(source, "source"), as_points(target, "target")
    moved = transform_points(result.motion, first)
    frame = _principal_axes(np.concatenate([moved, second]))
    ends = result.correspondences[result.inliers]
    ends = ends[:: max(1, -(-len(ends) // _MAX_LINES))]
    before, after = [], []
    for name, axes in _views(frame):
        offset = _side_by_side_offset(first, second, axes)
        lines = np.stack([ends[:, 0] + offset, ends[:, 1]], axis=1)
        before.append((f"before, {name}", splat([first + offset, second], axes, lines=lines)))
        after.append((f"after, {name}", splat([moved, second], axes)))
    labels, pictures = zip(*before, *after, strict=True)
    return side_by_side(*pictures, labels=labels, columns=3)


def draw_merged(scans: Sequence[ArrayLike], motions: ArrayLike) -> Image:
    """Draw several scans before and after registration, each from three sides.

    Args:
        scans: ``[N, 3]`` each, metres; coloured in the order of `COLOURS`.
        motions: ``[S, 4, 4]``, each scan to the common frame.

    Returns:
        Image of two rows of three views.
    """
    clouds = [as_points(scan, "scan") for scan in scans]
    moved = [
        transform_points(motion, cloud)
        for motion, cloud in zip(np.asarray(motions), clouds, strict=True)
    ]
    views = _views(_principal_axes(np.concatenate(moved)))
    rows = (("before", clouds), ("after", moved))
    labels = [f"{time}, {name}" for time, _ in rows for name, _ in views]
    images = [splat(clouds, axes) for _, clouds in rows for _, axes in views]
    return side_by_side(*images, labels=labels, columns=3)


def draw_pair(
    source: ArrayLike, target: ArrayLike, motion: ArrayLike, size: tuple[int, int] = (240, 320)
) -> Image:
    """Draw two scans with a known motion: each from its camera, then both, also from above.

    Args:
        source: ``[N, 3]``, metres.
        target: ``[M, 3]``.
        motion: ``[4, 4]``, source to target.
        size: Height and width of each of the four views, pixels.

    Returns:
        Image of one row.
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


def _subsample(cloud: Points) -> Points:
    if len(cloud) <= _MAX_POINTS:
        return cloud
    return cloud[np.random.default_rng(0).permutation(len(cloud))[:_MAX_POINTS]]


def _principal_axes(points: Points) -> NDArray[np.float64]:
    """Return the principal axes as rows: the longest to the right, the shortest away."""
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


def _side_by_side_offset(
    first: Points, second: Points, axes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the shift that puts the first scan to the left of the second, with a gap."""
    a, b = first @ axes.T, second @ axes.T
    right = np.percentile(a[:, 0], 99.5)
    left = np.percentile(b[:, 0], 0.5)
    gap = 0.05 * (np.ptp(a[:, 0]) + np.ptp(b[:, 0]))
    across = np.median(b[:, 1:], axis=0) - np.median(a[:, 1:], axis=0)
    shift: NDArray[np.float64] = np.array([left - right - gap, *across]) @ axes
    return shift
