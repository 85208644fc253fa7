"""Matches that are fixed to the frame: date stamps, logos, displays, dust, a car's bonnet."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from flowmatch.matching.keypoints import Keypoints

Size = tuple[int, int]
"""Width and height, pixels."""

_Points = NDArray[np.floating]

_CELLS = 16  # cells along each side of the frame
_MOST_KEYPOINTS, _MOST_AREA = 0.7, 0.4  # shares of the frame that agree if the camera stood still
_LEAST_TURNED = 8  # matches that stay after a turn of the frame: with fewer no motion is trusted
_BORDER = 0.1  # of each side, as in COLMAP's test for watermarks


def fixed_to_frame(
    keypoints0: Keypoints,
    keypoints1: Keypoints,
    matches: NDArray[np.int64],
    sizes: tuple[Size, Size] | None = None,
    tolerance: float = 3.0,
) -> NDArray[np.bool_]:
    """Find matches that stay in their place of the frame while most of the frame disagrees.

    Matches within the region of such matches are found with them.

    Such matches say nothing about the scene. Two photos of a camera on a tripod have them all over
    the frame, and there they are kept. Of 16 x 16 cells of the frame, those agree that have such a
    match, or lie beside one that has: with 0.4 of all cells, or 0.7 of those with keypoints, the
    frame agrees. Date stamps, logos, displays and bonnets reach 0.3 of all; they reach more of
    those with keypoints where the photos are nearly empty.

    Args:
        keypoints0: Keypoints of the first image.
        keypoints1: Keypoints of the second image.
        matches: ``[K, 2]`` indices into both.
        sizes: Sizes of both images, width first. Images of different sizes may share a corner or be
            scaled, and one may be turned by a quarter or a half. None
            takes the box around all keypoints for one size of both.
        tolerance: Distance within which a match stays, pixels.

    Returns:
        ``[K]``, which matches are fixed to the frame; none if most of the frame agrees.

    Example:
        >>> ones = np.ones(40, np.float32)
        >>> xy = np.random.default_rng(0).uniform(5, 75, (36, 2)).astype(np.float32)
        >>> stamp = np.float32([(70, 95), (75, 95), (80, 95), (85, 95)])
        >>> a, b = (Keypoints(np.vstack([points, stamp]), *[ones] * 3) for points in (xy, xy[::-1]))
        >>> fixed_to_frame(a, b, np.stack([np.arange(40)] * 2, axis=1), ((100, 100),) * 2).sum()
        np.int64(4)
    """
    result = np.zeros(len(matches), np.bool_)
    if len(matches) == 0 or (sizes and min(map(min, sizes)) < _CELLS):
        return result
    b = keypoints1.xy[matches[:, 1]]
    first = frame = _box(keypoints0.xy, keypoints1.xy)
    if sizes is not None:
        first, frame = sizes
    # A photo may have been turned after its stamp was burnt in.
    for points, (scale, shift) in _turns_and_alignments(keypoints0.xy, first, frame):
        moved = points[matches[:, 0]] * scale + shift
        stays = np.linalg.norm(moved - b, axis=1) <= tolerance
        places = np.concatenate([points * scale + shift, keypoints1.xy])
        if points is not keypoints0.xy and stays.sum() < _LEAST_TURNED:
            continue  # some of the scene's matches lie there by chance
        near = _near(b[stays], frame)
        if not _most_agrees(near, places, frame) or (sizes and _is_border(b[stays], frame)):
            # Letters of one line of text also match each other.
            result |= stays | (_at(near, moved, frame) & _at(near, b, frame))
    return result


def _box(first: _Points, second: _Points) -> Size:
    W, H = np.ceil(np.maximum(first.max(axis=0), second.max(axis=0))).astype(int) + 1
    return int(W), int(H)


def _turns_and_alignments(
    points: _Points, first: Size, second: Size
) -> Iterator[tuple[_Points, tuple[_Points, _Points]]]:
    """Yield the first frame's points after each quarter turn, with each scale and shift."""
    W, H = first
    x, y = points.T
    turns = (
        ((W, H), points),
        ((W, H), np.column_stack([W - 1 - x, H - 1 - y])),
        ((H, W), np.column_stack([H - 1 - y, x])),
        ((H, W), np.column_stack([y, W - 1 - x])),
    )
    for size, turned in turns:
        yield from ((turned, alignment) for alignment in _alignments(size, second))


def _alignments(first: Size, second: Size) -> list[tuple[_Points, _Points]]:
    """Return scales and shifts by which frames of two sizes may coincide."""
    ones, zeros = np.ones(2), np.zeros(2)
    if first == second:
        return [(ones, zeros)]
    margin = np.subtract(second, first).astype(np.float64)
    corners = [(ones, margin * corner) for corner in ((0, 0), (1, 0), (0, 1), (1, 1))]
    scale = np.divide(second, first)
    return [*corners, (scale, (scale - 1) / 2)]  # the centre of the first pixel is (0, 0)


def _most_agrees(near: NDArray[np.bool_], places: _Points, frame: Size) -> bool:
    """Return whether much of the frame has, or lies beside, a match that stays."""
    occupied = np.zeros_like(near)
    inside = ((places >= 0) & (places <= np.subtract(frame, 1))).all(axis=1)
    occupied[_cells(places[inside], frame)] = True
    share = (near & occupied).sum() / max(1, occupied.sum())
    return bool(share >= _MOST_KEYPOINTS or near.mean() >= _MOST_AREA)


def _near(points: _Points, frame: Size) -> NDArray[np.bool_]:
    """Return which cells of a frame hold a point or lie beside one that does, ``[16, 16]``."""
    n = _CELLS
    padded = np.zeros((n + 2, n + 2), np.bool_)
    row, column = _cells(points, frame)
    padded[row + 1, column + 1] = True
    near = np.any([padded[y : y + n, x : x + n] for y in range(3) for x in range(3)], axis=0)
    return np.asarray(near, np.bool_)


def _at(cells: NDArray[np.bool_], points: _Points, frame: Size) -> NDArray[np.bool_]:
    """Return which points lie in cells that are true."""
    return np.asarray(cells[_cells(points, frame)])


def _cells(points: _Points, frame: Size) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of the cells of points; those outside go to the nearest cell."""
    cells = np.clip((points + 0.5) / frame * _CELLS, 0, _CELLS - 1).astype(np.int64)
    return cells[:, 1], cells[:, 0]


def _is_border(stays: _Points, frame: Size) -> bool:
    """Return whether points lie along the border of a frame only."""
    margin = _BORDER * np.array(frame)
    return not ((stays > margin) & (stays < frame - margin)).all(axis=1).any()
