"""Bundle adjustment: all cameras at once, so that matched points meet.

OpenCV's adjusters are not used: given the same matches, they do not always give the same cameras,
and at times stop where they started.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2

Array = NDArray[np.float64]

_PARAMETERS = 4  # of a camera: the logarithm of its focal length, and a small turn
_STEP = 1e-5  # of a numerical derivative; radians, or a share of the focal length
_HUBER = 2.0  # pixels, from where on errors count by their size instead of its square
# Photos mostly come from one lens. This decides only where matches do not: as if one matched point
# were off by so many pixels if a focal length differs from the others by a factor e.
_SAME_LENS = 20.0
_MOST_STEPS = 100


class Matched(NamedTuple):
    """All matched points of some photos, K of them.

    Attributes:
        first: ``[K]``, number of the first photo.
        second: ``[K]``, of the second.
        a: ``[K, 2]``, pixels of the first photo.
        b: ``[K, 2]``, of the second.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    a: Array
    b: Array


class Turning(NamedTuple):
    """Cameras at one place, N of them.

    Attributes:
        focal: ``[N]``, pixels.
        rotation: ``[N, 3, 3]``, from the camera's axes to common ones.
    """

    focal: Array
    rotation: Array


def adjust_rotations(matched: Matched, start: Turning) -> Turning:
    """Improve focal lengths and rotations.

    Rotations come first, so that rays meet: rays are defined also where a bad start puts a point
    behind a camera, but say little of focal lengths. Then, with these, what counts is by how many
    pixels points miss each other in the photos.

    Args:
        matched: Points, from the middle of their photos.
        start: Cameras that are roughly right.

    Returns:
        Cameras; the rotation of the first is that of `start`.

    Reference:
        Brown and Lowe, Automatic Panoramic Image Stitching Using Invariant Features, IJCV 2007,
        section 4. Levenberg-Marquardt with Huber's loss.
    """
    found = _minimise(_ray_errors, matched, start, np.inf, lenses=False)
    for huber in (np.inf, _HUBER):
        found = _minimise(_pixel_errors, matched, found, huber)
    back = start.rotation[0] @ found.rotation[0].T
    return found._replace(rotation=np.asarray(back @ found.rotation))


def _rays(points: Array, focal: Array, rotation: Array) -> Array:
    rays: Array = np.concatenate([points, focal[:, None]], axis=1)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return np.asarray(np.einsum("kij,kj->ki", rotation, rays))


def _ray_errors(matched: Matched, one: Turning, two: Turning) -> Array:
    """Return by how much rays differ, in pixels, ``[K, 3]``; a camera is given for each point."""
    difference = _rays(matched.a, *one) - _rays(matched.b, *two)
    return np.asarray(np.sqrt(one.focal * two.focal)[:, None] * difference)


def _pixel_errors(matched: Matched, one: Turning, two: Turning) -> Array:
    """Return by how many pixels points miss each other in both photos, ``[K, 4]``."""
    there = _pixels(_rays(matched.a, *one), two) - matched.b
    back = _pixels(_rays(matched.b, *two), one) - matched.a
    return np.asarray(np.concatenate([there, back], axis=1) / np.sqrt(2))


def _pixels(rays: Array, camera: Turning) -> Array:
    seen: Array = np.einsum("kji,kj->ki", camera.rotation, rays)
    depth = np.maximum(seen[:, 2], 1e-3)  # what is behind the camera is far off, not nowhere
    return np.asarray(camera.focal[:, None] * seen[:, :2] / depth[:, None])


def _minimise(
    errors: Callable[[Matched, Turning, Turning], Array],
    matched: Matched,
    cameras: Turning,
    huber: float,
    *,
    lenses: bool = True,
) -> Turning:
    """Improve cameras by Levenberg's and Marquardt's method; without `lenses` only rotations."""
    damping = 1e-3
    free = np.tile([lenses, True, True, True], len(cameras.focal))
    cost, normal, gradient = _linearise(errors, matched, cameras, huber)
    for _ in range(_MOST_STEPS):
        inner = normal[np.ix_(free, free)]
        diagonal = np.diag(inner)
        # All cameras may turn together: the second part keeps them from it.
        damped = inner + np.diag(damping * diagonal + 1e-9 * diagonal.max())
        step: Array = np.zeros(len(free))
        step[free] = -np.linalg.solve(damped, gradient[free])
        step = step.reshape(-1, _PARAMETERS)
        # Nothing turns by more than half a radian at once.
        step = step / max(1.0, float(np.abs(step).max()) / 0.5)
        tried = _moved(cameras, step)
        new, new_normal, new_gradient = _linearise(errors, matched, tried, huber)
        if not new < cost:
            damping *= 10
            if damping > 1e8:
                break
            continue
        small = cost - new <= 1e-10 * cost
        cameras, cost, normal, gradient = tried, new, new_normal, new_gradient
        damping = max(damping / 10, 1e-9)
        if small:
            break
    return cameras


def _moved(cameras: Turning, step: Array) -> Turning:
    turns = np.stack([cv2.Rodrigues(vector)[0] for vector in step[:, 1:]])
    return Turning(cameras.focal * np.exp(step[:, 0]), np.asarray(cameras.rotation @ turns))


def _linearise(
    errors: Callable[[Matched, Turning, Turning], Array],
    matched: Matched,
    cameras: Turning,
    huber: float,
) -> tuple[float, Array, Array]:
    """Return the cost, the normal matrix ``[4 N, 4 N]`` and the gradient ``[4 N]``."""
    N = len(cameras.focal)
    sides = (matched.first, matched.second)
    plain = [Turning(cameras.focal[side], cameras.rotation[side]) for side in sides]
    found = errors(matched, *plain)
    derivatives = []
    for side in (0, 1):
        for parameter in range(_PARAMETERS):
            step = np.zeros((N, _PARAMETERS))
            both = []
            for sign in (1, -1):
                step[:, parameter] = sign * _STEP
                moved = _moved(cameras, step)
                pair = list(plain)
                pair[side] = Turning(moved.focal[sides[side]], moved.rotation[sides[side]])
                both.append(errors(matched, *pair))
            derivatives.append((both[0] - both[1]) / (2 * _STEP))
    J = np.stack(derivatives, axis=2)  # [K, errors, 8]
    size = np.linalg.norm(found, axis=1)
    weight = np.minimum(1.0, huber / np.maximum(size, 1e-12))
    cost = float(np.sum(np.where(size <= huber, size**2, 2 * huber * size - huber**2)
                        if np.isfinite(huber) else size**2))  # fmt: skip
    normal, gradient = _accumulate(matched, N, weight, J, found)
    return _with_same_lens(cameras, cost, normal, gradient)


def _accumulate(
    matched: Matched, N: int, weight: Array, J: Array, found: Array
) -> tuple[Array, Array]:
    """Add up what each point says of its two cameras: ``J' w J`` and ``J' w errors`` of all."""
    blocks = np.einsum("k,kep,keq->kpq", weight, J, J)
    slopes = np.einsum("k,kep,ke->kp", weight, J, found)
    # Which rows of the whole a point's eight parameters are.
    sides = (matched.first, matched.second)
    offsets = np.arange(_PARAMETERS)
    rows = np.concatenate([_PARAMETERS * side[:, None] + offsets for side in sides], axis=1)
    normal, gradient = np.zeros((_PARAMETERS * N,) * 2), np.zeros(_PARAMETERS * N)
    np.add.at(normal, (rows[:, :, None], rows[:, None, :]), blocks)
    np.add.at(gradient, rows, slopes)
    return normal, gradient


def _with_same_lens(
    cameras: Turning, cost: float, normal: Array, gradient: Array
) -> tuple[float, Array, Array]:
    logarithm = np.log(cameras.focal)
    N = len(logarithm)
    centering = _SAME_LENS**2 * (np.eye(N) - 1 / N)
    focals = np.arange(0, _PARAMETERS * N, _PARAMETERS)
    normal[np.ix_(focals, focals)] += centering
    gradient[focals] += centering @ logarithm
    return cost + float(logarithm @ centering @ logarithm), normal, gradient


def adjust_scans(matched: Matched, scans: int, reference: int) -> Array:
    """Find shift, turn and scale of each scan, all at once.

    The equations are linear, so there is no start; errors beyond `_HUBER` pixels are weighed down.

    Args:
        matched: Points, pixels.
        scans: How many there are, N; all hang together.
        reference: The one that stays as it is.

    Returns:
        ``[N, 3, 3]``, from the pixels of each scan to those of the reference.

    Raises:
        ValueError: The matches do not determine all scans.
    """
    unit = 1000.0  # pixels: then turns and shifts are numbers of one size
    J = np.concatenate([_similarity_rows(matched.a), -_similarity_rows(matched.b)], axis=2) / unit
    J[:, :, [2, 3, 6, 7]] *= unit
    same = np.tile(np.array([1.0, 0, 0, 0]), (scans, 1))
    others = np.ones(_PARAMETERS * scans, np.bool_)
    others[_PARAMETERS * reference : _PARAMETERS * (reference + 1)] = False
    solution, weight = same, np.ones(len(J))
    for _ in range(20):
        found = _missed(J, matched, same)
        normal, gradient = _accumulate(matched, scans, weight, J, found)
        inner = normal[np.ix_(others, others)]
        if np.linalg.matrix_rank(inner, hermitian=True) < len(inner):
            raise ValueError("the matches do not place all scans")
        solution = same.ravel().copy()
        solution[others] -= np.linalg.solve(inner, gradient[others])
        solution = solution.reshape(-1, _PARAMETERS)
        size = np.linalg.norm(_missed(J, matched, solution), axis=1) * unit
        weight = np.minimum(1.0, _HUBER / np.maximum(size, 1e-12))
    return np.stack([_similarity(a, b, unit * x, unit * y) for a, b, x, y in solution])


def _similarity_rows(points: Array) -> Array:
    """Return what times (a, b, x, y) is a point turned, scaled and shifted, ``[K, 2, 4]``."""
    x, y = points.T
    one, zero = np.ones_like(x), np.zeros_like(x)
    return np.stack([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)], axis=1)


def _missed(J: Array, matched: Matched, parameters: Array) -> Array:
    both = np.concatenate([parameters[matched.first], parameters[matched.second]], axis=1)
    return np.asarray(np.einsum("kep,kp->ke", J, both))


def _similarity(a: Any, b: Any, x: Any, y: Any) -> Array:
    return np.array([[a, -b, x], [b, a, y], [0, 0, 1]], np.float64)
