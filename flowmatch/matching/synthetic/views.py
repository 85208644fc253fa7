"""Random views of a photograph: where a camera may stand, and what light and sensor do."""

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.matching.keypoints import Keypoints

Generator = np.random.Generator
Gray = NDArray[np.uint8]  # [H, W]
Matrix = NDArray[np.float64]  # [3, 3]

_STEEPEST = np.deg2rad(62)  # tilt; HPatches and Oxford end at about 60 degrees
_ZOOM = np.log(2)
# What still is the same point, found again: pixels, factor on the scale, radians.
NEAR = 3.0
_SCALE, _TURN = np.log(1.75), np.deg2rad(35)
_ROWS = 500  # of a table of distances at once
_FINEST = 0.7  # below this magnification a warp would skip pixels


def random_view(rng: Generator, height: int, width: int) -> Matrix:
    """Draw the homography from a frontal view of a plane to another camera's view of it.

    The plane is tilted by up to 62 degrees around any axis, rolled (mostly by less than 40 degrees,
    a quarter of the time by any angle), and shown 0.5 to 2 times as large.

    Args:
        rng: The only source of chance.
        height: Of both views, pixels.
        width: Of both views, pixels.

    Returns:
        ``[3, 3]``, pixels to pixels.

    Example:
        >>> random_view(np.random.default_rng(0), 480, 640).shape
        (3, 3)
    """
    tilt, axis = _STEEPEST * rng.random(), rng.uniform(0, 2 * np.pi)
    roll = rng.uniform(-np.pi, np.pi) if rng.random() < 0.25 else rng.uniform(-0.7, 0.7)
    zoom = np.exp(rng.uniform(-_ZOOM, _ZOOM))
    focal = rng.uniform(0.8, 2.0) * max(height, width)
    across = np.array([np.cos(axis), np.sin(axis), 0.0]) * tilt
    turn = cv2.Rodrigues(np.array([0.0, 0.0, roll]))[0] @ cv2.Rodrigues(across)[0]
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    away = np.eye(3)
    away[:2, 2] = -middle
    back = np.eye(3)
    back[:2, 2] = middle + rng.uniform(-0.12, 0.12, 2) * (width, height)
    camera = np.diag([zoom * focal, zoom * focal, 1.0])
    # A point (x, y, 0) of the plane, turned, and moved away by the focal length.
    plane = np.column_stack([turn[:, :2], [0.0, 0.0, focal]])
    matrix = back @ camera @ plane @ away
    return np.asarray(matrix / matrix[2, 2])


def warp_perspective(image: Gray, matrix: Matrix, height: int, width: int) -> Gray:
    """Paint the view ``[height, width]`` of an image; beyond its border it is mirrored."""
    middle = np.linalg.inv(matrix) @ [(width - 1) / 2, (height - 1) / 2, 1]
    _, scale, _ = frames_at(matrix, (middle[:2] / middle[2])[None].astype(np.float32))
    shrink = float(scale[0])
    if shrink < _FINEST:
        # Averaged first, because the warp interpolates between four pixels only.
        H, W = image.shape
        image = np.asarray(
            cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        )
        x, y = image.shape[1] / W, image.shape[0] / H
        matrix = matrix @ [[1 / x, 0, 0.5 / x - 0.5], [0, 1 / y, 0.5 / y - 0.5], [0, 0, 1]]
    return np.asarray(
        cv2.warpPerspective(
            image, matrix, (width, height), flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        ),
        np.uint8,
    )  # fmt: skip


def frames_at(
    matrix: Matrix, xy: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Project points, and find what the homography does to their surroundings.

    Args:
        matrix: ``[3, 3]``.
        xy: ``[N, 2]``.

    Returns:
        Points ``[N, 2]``, factors on sizes ``[N]``, and Jacobians ``[N, 2, 2]``.
    """
    there = np.concatenate([xy, np.ones((len(xy), 1))], axis=1) @ matrix.T
    w = there[:, 2:]
    points = there[:, :2] / w
    jacobian = (matrix[None, :2, :2] - points[:, :, None] * matrix[None, 2:, :2]) / w[:, :, None]
    return points, np.sqrt(np.abs(np.linalg.det(jacobian))), jacobian


def project_keypoints(keypoints: Keypoints, matrix: Matrix) -> Keypoints:
    """Return where a homography takes keypoints, with the scale and the direction they get there.

    As `carry_keypoints`, by the Jacobian of the homography at each.

    Example:
        >>> one = Keypoints(*(np.array(a, np.float32) for a in ([[5, 7]], [2], [0], [1])))
        >>> turned = project_keypoints(one, np.array([[0.0, -3, 0], [3, 0, 0], [0, 0, 1]]))
        >>> turned.xy.tolist(), round(float(turned.angle[0]), 2)
        ([[-21.0, 15.0]], 1.57)
    """
    points, _, jacobian = frames_at(matrix, keypoints.xy)
    return carry_keypoints(keypoints, points, jacobian)


def carry_keypoints(
    keypoints: Keypoints, points: NDArray[np.float64], jacobian: NDArray[np.float64]
) -> Keypoints:
    """Return keypoints as another view shows them, with their scale and direction there.

    A keypoint's direction is that of its gray values' gradient. Edges turn with the Jacobian of the
    map between the views, what is perpendicular to them with its inverse, transposed; in a steep
    view the two are far apart.

    Args:
        keypoints: N of one view.
        points: ``[N, 2]``, where they are in the other.
        jacobian: ``[N, 2, 2]``, of the map from the one to the other, at each.

    Example:
        >>> one = Keypoints(*(np.array(a, np.float32) for a in ([[5, 7]], [2], [0], [1])))
        >>> carry_keypoints(one, np.array([[8.0, 9.0]]), 2 * np.eye(2)[None]).scale.tolist()
        [4.0]
    """
    direction = np.stack([np.cos(keypoints.angle), np.sin(keypoints.angle)], axis=1)
    x, y = np.einsum("nji,nj->in", np.linalg.inv(jacobian), direction)
    factor = np.sqrt(np.abs(np.linalg.det(jacobian)))
    return Keypoints(
        points.astype(np.float32),
        (keypoints.scale * factor).astype(np.float32),
        np.arctan2(y, x).astype(np.float32),
        keypoints.score,
    )


def find_again(there: Keypoints, found: Keypoints) -> NDArray[np.int64]:
    """Return which of the keypoints found in a view is where one is expected, ``[N]``, or -1.

    At most 3 pixels off, at most 1.75 times as large or small, at most 35 degrees turned.

    Args:
        there: N keypoints where they are expected, see `project_keypoints`.
        found: Those of the view.
    """
    best = np.full(len(there.scale), -1)
    for start in range(0, len(best), _ROWS):
        some = there.select(slice(start, start + _ROWS))
        apart = np.hypot(*(some.xy[:, None] - found.xy[None]).transpose(2, 0, 1))
        i, j = np.nonzero(apart <= NEAR)
        zoom = np.abs(np.log(some.scale[i] / found.scale[j]))
        turn = np.abs(np.angle(np.exp(1j * (some.angle[i] - found.angle[j]))))
        cost = apart[i, j] / NEAR + zoom / _SCALE + turn / _TURN
        fits = np.flatnonzero((zoom <= _SCALE) & (turn <= _TURN))
        order = fits[np.argsort(-cost[fits], kind="stable")]
        best[start + i[order]] = j[order]  # the last that is written is the cheapest
    return best


def apply_camera_noise(rng: Generator, image: Gray) -> Gray:
    """Give a view light, optics, a sensor and a file of its own.

    Args:
        rng: The only source of chance.
        image: ``[H, W]``.

    Returns:
        The same size.
    """
    H, W = image.shape
    if rng.random() < 0.4:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6)), np.uint8)
    gamma, contrast = np.exp(rng.normal(size=2) * 0.25)
    levels = (np.arange(256) / 255) ** gamma * 255
    table = ((levels - 128) * contrast + 128 + rng.normal() * 15).astype(np.float32)
    light = np.asarray(cv2.LUT(image, table), np.float32)
    if rng.random() < 0.5:  # lamps and shadows, a few across
        cells = np.exp(rng.normal(size=(4, 4)) * 0.35).astype(np.float32)
        light = light * cv2.resize(cells, (W, H), interpolation=cv2.INTER_CUBIC)
    sigma = np.float32(abs(rng.normal()) * 5)
    if sigma > 1:
        light = light + sigma * rng.standard_normal((H, W), dtype=np.float32)
    stored = light.clip(0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 95))]
        _, data = cv2.imencode(".jpg", stored, quality)
        stored = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
    return stored
