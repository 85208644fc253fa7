"""Bundle adjustment: all cameras are optimised together, so that matched points meet.

OpenCV's adjusters are not used: the same matches do not always give the same cameras, and sometimes
they stop at the initial guess.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2

Array = NDArray[np.float64]

_PARAMETERS = 4  # per camera: logarithm of the focal length, and a rotation vector
_HUBER = 2.0  # pixels beyond which the loss is linear instead of quadratic
# Prior of equal focal lengths, because photos mostly come from one lens: the error, in pixels of
# one matched point, of a focal length that differs from the others by a factor of e. It matters
# only where matches do not determine the focal length.
_SAME_LENS = 20.0
# The same for a focal length that differs from that in EXIF, which may be of a cropped photo.
_STATED = 20.0
_MAX_STEPS = 100


_Errors: TypeAlias = (
    "Callable[[MatchedPoints, RotatingCameras, RotatingCameras], tuple[Array, Array]]"
)


class MatchedPoints(NamedTuple):
    """K matched points of several photos.

    Attributes:
        first: ``[K]``, index of the first photo.
        second: ``[K]``, index of the second photo.
        a: ``[K, 2]``, position in the first photo, pixels.
        b: ``[K, 2]``, position in the second photo, pixels.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    a: Array
    b: Array


class RotatingCameras(NamedTuple):
    """N cameras at one place.

    Attributes:
        focal: ``[N]``, focal length in pixels.
        rotation: ``[N, 3, 3]``, from the axes of each camera to common axes.
    """

    focal: Array
    rotation: Array


def adjust_rotations(
    matched: MatchedPoints, start: RotatingCameras, stated: Array | None = None
) -> RotatingCameras:
    """Optimise focal lengths and rotations.

    The first stage optimises rotations only, by the angles between rays: these are defined even
    where a bad start puts a point behind a camera, but hardly depend on focal lengths. The second
    stage optimises both, by the distances of points in the photos.

    Args:
        matched: Matched points, relative to the middle of their photos.
        start: Approximate cameras.
        stated: Focal lengths by EXIF, ``[N]``, pixels, NaN where unknown. They matter only where
            matches do not determine the focal length, because EXIF is wrong for cropped photos.

    Returns:
        Optimised cameras; the first has the rotation that it has in `start`.

    Reference:
        Brown and Lowe, Automatic Panoramic Image Stitching Using Invariant Features, IJCV 2007,
        section 4. Levenberg-Marquardt with Huber's loss.
    """
    if stated is None:
        stated = np.full(len(start.focal), np.nan)
    cameras = _minimise(_ray_errors, matched, start, np.inf, stated, optimise_focal=False)
    for huber in (np.inf, _HUBER):
        cameras = _minimise(_pixel_errors, matched, cameras, huber, stated)
    back = start.rotation[0] @ cameras.rotation[0].T
    return cameras._replace(rotation=np.asarray(back @ cameras.rotation))


def _ray_errors(
    matched: MatchedPoints, first: RotatingCameras, second: RotatingCameras
) -> tuple[Array, Array]:
    """Return the differences of rays in pixels, ``[K, 3]``, given two cameras for each point.

    Their derivatives, ``[K, 3, 8]``, are those by rotations; those by focal lengths stay zero.
    """
    scale = np.sqrt(first.focal * second.focal)
    errors, derivatives = np.zeros((len(scale), 3)), np.zeros((len(scale), 3, 2 * _PARAMETERS))
    for sign, place, points, camera in ((1, 0, matched.a, first), (-1, 1, matched.b, second)):
        rays, _ = _rays(points, camera.focal)
        errors += sign * scale[:, None] * np.einsum("kij,kj->ki", camera.rotation, rays)
        columns = slice(_PARAMETERS * place + 1, _PARAMETERS * (place + 1))
        turned = _cross(rays[:, None], camera.rotation)
        derivatives[:, :, columns] = sign * scale[:, None, None] * turned
    return errors, derivatives


def _pixel_errors(
    matched: MatchedPoints, first: RotatingCameras, second: RotatingCameras
) -> tuple[Array, Array]:
    """Return the offsets of points in both photos, ``[K, 4]``, given two cameras for each point.

    Their derivatives, ``[K, 4, 8]``, are by the parameters of both cameras.
    """
    there, by_source, by_target = _transfer(matched.a, first, second)
    back, by_second, by_first = _transfer(matched.b, second, first)
    errors = np.concatenate([there - matched.b, back - matched.a], axis=1)
    derivatives = np.concatenate(
        [
            np.concatenate([by_source, by_target], axis=2),
            np.concatenate([by_first, by_second], axis=2),
        ],
        axis=1,
    )
    return errors / np.sqrt(2), derivatives / np.sqrt(2)


def _rays(points: Array, focal: Array) -> tuple[Array, Array]:
    """Return unit vectors in the axes of the camera, ``[K, 3]``, and how long they were."""
    rays: Array = np.concatenate([points, focal[:, None]], axis=1)
    length = np.linalg.norm(rays, axis=1)
    return rays / length[:, None], np.asarray(length)


def _transfer(
    points: Array, source: RotatingCameras, target: RotatingCameras
) -> tuple[Array, Array, Array]:
    """Return where points of one photo lie in another, ``[K, 2]``.

    Also the derivatives by the four parameters of either camera, ``[K, 2, 4]`` each.
    """
    rays, length = _rays(points, source.focal)
    between = np.matmul(target.rotation.transpose(0, 2, 1), source.rotation)
    local = np.einsum("kij,kj->ki", between, rays)
    depth = np.maximum(local[:, 2], 1e-3)  # a point behind the camera gets a large, finite error
    places = target.focal[:, None] * local[:, :2] / depth[:, None]
    by_local = np.zeros((len(points), 2, 3))
    by_local[:, 0, 0] = by_local[:, 1, 1] = target.focal / depth
    by_local[:, :, 2] = np.where((local[:, 2] >= depth)[:, None], -places / depth[:, None], 0)
    by_ray = np.matmul(by_local, between)
    by_source = np.empty((len(points), 2, _PARAMETERS))
    by_source[:, :, 0] = by_ray[:, :, 2] * (source.focal / length)[:, None]
    by_source[:, :, 1:] = _cross(rays[:, None], by_ray)
    by_target = np.empty_like(by_source)
    by_target[:, :, 0] = places
    by_target[:, :, 1:] = -_cross(local[:, None], by_local)
    return places, by_source, by_target


def _cross(a: Array, b: Array) -> Array:
    """Return cross products along the last axis; `numpy.cross` takes five times as long."""
    (x, y, z), (u, v, w) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    return np.stack([y * w - z * v, z * u - x * w, x * v - y * u], axis=-1)


def _minimise(
    errors: _Errors,
    matched: MatchedPoints,
    cameras: RotatingCameras,
    huber: float,
    stated: Array,
    *,
    optimise_focal: bool = True,
) -> RotatingCameras:
    """Optimise cameras by the Levenberg-Marquardt method."""
    damping = 1e-3
    free = np.tile([optimise_focal, True, True, True], len(cameras.focal))
    cost, normal, gradient = _linearise(errors, matched, cameras, huber, stated)
    for _ in range(_MAX_STEPS):
        inner = normal[np.ix_(free, free)]
        diagonal = np.diag(inner)
        # A common rotation of all cameras changes no error: the second term excludes it.
        damped = inner + np.diag(damping * diagonal + 1e-9 * diagonal.max())
        step: Array = np.zeros(len(free))
        step[free] = -np.linalg.solve(damped, gradient[free])
        step = step.reshape(-1, _PARAMETERS)
        # No camera rotates by more than half a radian per step.
        step = step / max(1.0, float(np.abs(step).max()) / 0.5)
        candidate = _apply_step(cameras, step)
        new_cost, new_normal, new_gradient = _linearise(errors, matched, candidate, huber, stated)
        if not new_cost < cost:
            damping *= 10
            if damping > 1e8:
                break
            continue
        converged = cost - new_cost <= 1e-10 * cost
        cameras, cost, normal, gradient = candidate, new_cost, new_normal, new_gradient
        damping = max(damping / 10, 1e-9)
        if converged:
            break
    return cameras


def _apply_step(cameras: RotatingCameras, step: Array) -> RotatingCameras:
    rotations = np.stack([cv2.Rodrigues(vector)[0] for vector in step[:, 1:]])
    return RotatingCameras(
        cameras.focal * np.exp(step[:, 0]), np.asarray(cameras.rotation @ rotations)
    )


def _linearise(
    errors: _Errors,
    matched: MatchedPoints,
    cameras: RotatingCameras,
    huber: float,
    stated: Array,
) -> tuple[float, Array, Array]:
    """Return the cost, the normal matrix ``[4 N, 4 N]`` and the gradient ``[4 N]``."""
    current = [
        RotatingCameras(cameras.focal[side], cameras.rotation[side])
        for side in (matched.first, matched.second)
    ]
    residuals, J = errors(matched, *current)
    size = np.linalg.norm(residuals, axis=1)
    weight = np.minimum(1.0, huber / np.maximum(size, 1e-12))
    cost = float(np.sum(np.where(size <= huber, size**2, 2 * huber * size - huber**2)
                        if np.isfinite(huber) else size**2))  # fmt: skip
    normal, gradient = _accumulate(matched, len(cameras.focal), weight, J, residuals)
    return _add_focal_prior(cameras, stated, cost, normal, gradient)


def _accumulate(
    matched: MatchedPoints, N: int, weight: Array, J: Array, residuals: Array
) -> tuple[Array, Array]:
    """Sum ``J' w J`` and ``J' w residuals`` over all points, by the parameters of N cameras."""
    normal, gradient = np.zeros((_PARAMETERS * N,) * 2), np.zeros(_PARAMETERS * N)
    offsets = np.arange(_PARAMETERS)
    for first, second, part in _pairs_in_a_row(matched):
        rows = np.concatenate([_PARAMETERS * first + offsets, _PARAMETERS * second + offsets])
        inner = J[part].reshape(-1, 2 * _PARAMETERS)
        weighted = (weight[part, None, None] * J[part]).reshape(-1, 2 * _PARAMETERS)
        normal[np.ix_(rows, rows)] += weighted.T @ inner
        gradient[rows] += weighted.T @ residuals[part].ravel()
    return normal, gradient


def _pairs_in_a_row(matched: MatchedPoints) -> Iterator[tuple[int, int, slice]]:
    """Yield the two photos of each run of points that are of the same photos."""
    changes = (np.diff(matched.first) != 0) | (np.diff(matched.second) != 0)
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(matched.first)]
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        yield int(matched.first[start]), int(matched.second[start]), slice(start, stop)


def _add_focal_prior(
    cameras: RotatingCameras, stated: Array, cost: float, normal: Array, gradient: Array
) -> tuple[float, Array, Array]:
    """Add that focal lengths are equal, and those that EXIF states."""
    logarithm = np.log(cameras.focal)
    N = len(logarithm)
    centering = _SAME_LENS**2 * (np.eye(N) - 1 / N)
    known = _STATED**2 * np.isfinite(stated)
    away = np.where(np.isfinite(stated), logarithm - np.log(stated), 0)
    focals = np.arange(0, _PARAMETERS * N, _PARAMETERS)
    normal[np.ix_(focals, focals)] += centering + np.diag(known)
    gradient[focals] += centering @ logarithm + known * away
    cost += float(logarithm @ centering @ logarithm) + float(known @ away**2)
    return cost, normal, gradient


def adjust_scans(matched: MatchedPoints, scans: int, reference: int) -> Array:
    """Estimate the shift, rotation and scale of all scans together.

    The equations are linear, so no initial guess is needed. Errors above `_HUBER` pixels have less
    weight.

    Args:
        matched: Matched points, pixels.
        scans: Number of scans, N; matches connect all of them.
        reference: Index of the scan that stays as it is.

    Returns:
        ``[N, 3, 3]``, from the pixels of each scan to those of the reference.

    Raises:
        ValueError: The matches do not determine all scans.
    """
    unit = 1000.0  # pixels: gives rotations and shifts the same order of magnitude
    J = np.concatenate([_similarity_rows(matched.a), -_similarity_rows(matched.b)], axis=2) / unit
    J[:, :, [2, 3, 6, 7]] *= unit
    identity = np.tile(np.array([1.0, 0, 0, 0]), (scans, 1))
    others = np.ones(_PARAMETERS * scans, np.bool_)
    others[_PARAMETERS * reference : _PARAMETERS * (reference + 1)] = False
    solution, weight = identity, np.ones(len(J))
    for _ in range(20):
        residuals = _residuals(J, matched, identity)
        normal, gradient = _accumulate(matched, scans, weight, J, residuals)
        inner = normal[np.ix_(others, others)]
        if np.linalg.matrix_rank(inner, hermitian=True) < len(inner):
            raise ValueError("the matches do not determine the places of all scans")
        solution = identity.ravel().copy()
        solution[others] -= np.linalg.solve(inner, gradient[others])
        solution = solution.reshape(-1, _PARAMETERS)
        size = np.linalg.norm(_residuals(J, matched, solution), axis=1) * unit
        weight = np.minimum(1.0, _HUBER / np.maximum(size, 1e-12))
    return np.stack([_similarity(a, b, unit * x, unit * y) for a, b, x, y in solution])


def _similarity_rows(points: Array) -> Array:
    """Return ``[K, 2, 4]``: times (a, b, x, y) it is each point rotated, scaled and shifted."""
    x, y = points.T
    ones, zeros = np.ones_like(x), np.zeros_like(x)
    return np.stack([np.stack([x, -y, ones, zeros], 1), np.stack([y, x, zeros, ones], 1)], axis=1)


def _residuals(J: Array, matched: MatchedPoints, parameters: Array) -> Array:
    both = np.concatenate([parameters[matched.first], parameters[matched.second]], axis=1)
    return np.asarray(np.einsum("kep,kp->ke", J, both))


def _similarity(a: Any, b: Any, x: Any, y: Any) -> Array:
    return np.array([[a, -b, x], [b, a, y], [0, 0, 1]], np.float64)
