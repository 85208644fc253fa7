"""The vertical direction of a panorama, from the axes of its photos."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from flowmatch.stitch.adjust import Array

# Roll and pitch are errors of someone who holds a camera level, so both have a cost; roll by a
# quarter has the same cost as a roll of 8 degrees.
_QUARTER_TURN, _PITCH = 0.02, 0.02
_MAX_CANDIDATES = 300
# The mean of the y axes is the vertical of photos that are level on average. It counts as much as
# one photo until it differs from the vertical of the x axes by more than they can be wrong: by
# 4 degrees, divided by the spread of the x axes.
_ROLL = np.radians(4.0)
_UNKNOWN = np.radians(15.0)  # median roll above which the photos do not agree on a vertical


class _Axes(NamedTuple):
    """Axes of N photos in common coordinates, each ``[N, 3]``: right, down, forward."""

    x: Array
    y: Array
    z: Array


def straighten(rotations: Sequence[Array], wave: str) -> tuple[list[Array], bool]:
    """Rotate all cameras together, so that the y axis of the panorama points down.

    The vertical is found from the photos' own axes: the y axes point down, and the x axes are
    level. Photos that are turned by a quarter or upside down count as if they were upright, as
    long as they are not the majority.

    Args:
        rotations: ``[3, 3]`` each, from the axes of a camera to common axes.
        wave: ``"horizontal"`` takes the direction that is perpendicular to the x axes, which is
            right also if all photos look up or down; ``"vertical"`` takes the mean of the y axes,
            which is right also if all photos look into one direction; ``"auto"`` takes both, each
            as far as it is determined; ``"none"`` changes nothing.

    Returns:
        The rotations to the axes of the panorama, whose z axis is the mean viewing direction; and
        whether the photos agree on a vertical.

    Example:
        >>> quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
        >>> straight, agree = straighten([quarter, quarter, quarter], "auto")
        >>> np.allclose(straight[0], np.eye(3)), agree
        (True, True)
    """
    if wave == "none" or len(rotations) < 2:
        return list(rotations), True
    stack = np.stack(rotations)
    axes = _Axes(stack[:, :, 0], stack[:, :, 1], stack[:, :, 2])
    down = find_down(axes, wave)
    basis = _basis(down, axes)
    return [np.asarray(basis @ rotation) for rotation in rotations], _agree(axes, down)


def find_down(axes: _Axes, wave: str) -> Array:
    """Return the direction that points down, ``[3]``."""
    candidates = _candidates(axes)
    costs = [_cost(axes, candidate) for candidate in candidates]
    down: Array = candidates[int(np.argmin(costs))]
    for _ in range(5):
        upright = _upright(axes, down)
        before, down = down, _refine(upright, wave)
        if np.allclose(before, down, atol=1e-9):
            break
    return down


def _candidates(axes: _Axes) -> Array:
    """Return unit vectors, ``[K, 3]``: y axes, their mean, and normals of pairs of x axes."""
    pairs = np.array(list(combinations(range(len(axes.x)), 2)))
    first, second = pairs[:: max(1, len(pairs) // _MAX_CANDIDATES)].T
    normals = np.cross(axes.x[first], axes.x[second])
    candidates = np.concatenate([axes.y.mean(0)[None], axes.y, normals, -normals])
    length = np.linalg.norm(candidates, axis=1)
    return np.asarray((candidates / np.maximum(length, 1e-12)[:, None])[length > 0.01])


def _quarters(axes: _Axes, down: Array) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return by how many quarters each photo is turned, 0 to 3."""
    roll = np.arctan2(axes.x @ down, axes.y @ down)
    return np.round(roll / (np.pi / 2)).astype(np.intp) % 4


def _upright(axes: _Axes, down: Array) -> _Axes:
    """Return the axes of the photos with their quarter turns undone."""
    quarters = _quarters(axes, down)[:, None]
    x = np.choose(quarters, [axes.x, -axes.y, -axes.x, axes.y])
    y = np.choose(quarters, [axes.y, axes.x, -axes.y, -axes.x])
    return _Axes(x, y, axes.z)


def _cost(axes: _Axes, down: Array) -> float:
    turned = int(np.count_nonzero(_quarters(axes, down)))
    if 2 * turned > len(axes.x):
        return np.inf
    roll, pitch = _upright(axes, down).x @ down, axes.z @ down
    return float(roll @ roll + _PITCH * (pitch @ pitch) + _QUARTER_TURN * turned)


def _refine(axes: _Axes, wave: str) -> Array:
    """Return the direction down of photos without quarter turns.

    It is the smallest eigenvector of the x axes, drawn to the mean of the y axes by a weight that
    depends on the angle between both, as of Geman and McClure's robust loss.
    """
    mean: Array = axes.y.sum(axis=0)
    mean /= max(float(np.linalg.norm(mean)), 1e-12)
    if wave == "vertical":
        return mean
    scatter, pull = axes.x.T @ axes.x, np.outer(mean, mean)
    spread = np.sqrt(max(float(np.linalg.eigvalsh(scatter)[1]), 1e-9))
    # The small weight determines the direction if all x axes are parallel.
    weights, down = 1e-3, mean
    for _ in range(20):
        down = np.linalg.eigh(scatter - weights * pull)[1][:, 0]
        down = down * (1.0 if down @ mean >= 0 else -1.0)
        if wave == "horizontal":
            break
        angle = np.arccos(np.clip(down @ mean, -1, 1))
        weights = 1e-3 + 1 / (1 + (angle * spread / _ROLL) ** 2) ** 2
    return np.asarray(down)


def _basis(down: Array, axes: _Axes) -> Array:
    """Return the rotation to axes whose y axis is `down` and whose z axis is the mean direction."""
    # Views around a full circle have no mean direction: then the first view is the middle.
    for forward in (axes.z.mean(axis=0), axes.z[0], axes.y[0]):
        level = forward - (forward @ down) * down
        if np.linalg.norm(level) > 1e-6:
            break
    level = level / np.linalg.norm(level)
    return np.stack([np.cross(down, level), down, level])


def _agree(axes: _Axes, down: Array) -> bool:
    """Return whether most photos are level, but for turns by a quarter."""
    upright = _upright(axes, down)
    side, along = upright.x @ down, upright.y @ down
    visible = np.hypot(side, along) > 0.2  # a photo that looks straight up or down has no roll
    roll = np.abs(np.arctan2(side, along))[visible]
    return len(roll) == 0 or bool(np.median(roll) < _UNKNOWN)
