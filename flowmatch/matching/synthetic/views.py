"""Random views of a photograph: camera poses, and the noise of light, optics and sensor."""

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Generator, Image
from flowmatch.matching.keypoints import Keypoints

Matrix = NDArray[np.float64]  # [3, 3]

_MAX_TILT = np.deg2rad(62)  # in HPatches and Oxford it is about 60 degrees
_MAX_ZOOM = np.log(2)
# Largest differences between two keypoints of one point: pixels, log of the scales' ratio, radians.
MAX_DISTANCE = 3.0
_MAX_SCALE_RATIO, _MAX_ROTATION = np.log(1.75), np.deg2rad(35)
_ROWS = 500  # rows of a matrix of distances computed at once
_MIN_SCALE = 0.7  # below this scale, bilinear interpolation would skip pixels


def random_view(rng: Generator, height: int, width: int) -> Matrix:
    """Sample the homography from a frontal view of a plane to a view by another camera.

    The plane is tilted by up to 62 degrees around any axis, rolled (mostly by less than 40 degrees,
    a quarter of the time by any angle), and scaled by a factor of 0.5 to 2.

    Args:
        rng: Source of randomness.
        height: Height of both views, pixels.
        width: Width of both views, pixels.

    Returns:
        Homography ``[3, 3]`` from pixels to pixels.

    Example:
        >>> random_view(np.random.default_rng(0), 480, 640).shape
        (3, 3)
    """
    tilt, axis = _MAX_TILT * rng.random(), rng.uniform(0, 2 * np.pi)
    roll = rng.uniform(-np.pi, np.pi) if rng.random() < 0.25 else rng.uniform(-0.7, 0.7)
    zoom = np.exp(rng.uniform(-_MAX_ZOOM, _MAX_ZOOM))
    focal = rng.uniform(0.8, 2.0) * max(height, width)
    tilt_vector = np.array([np.cos(axis), np.sin(axis), 0.0]) * tilt
    rotation = cv2.Rodrigues(np.array([0.0, 0.0, roll]))[0] @ cv2.Rodrigues(tilt_vector)[0]
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    centring = np.eye(3)
    centring[:2, 2] = -middle
    shift = np.eye(3)
    shift[:2, 2] = middle + rng.uniform(-0.12, 0.12, 2) * (width, height)
    camera = np.diag([zoom * focal, zoom * focal, 1.0])
    # Maps a point (x, y, 0) of the plane: rotated, and at a distance of the focal length.
    plane = np.column_stack([rotation[:, :2], [0.0, 0.0, focal]])
    matrix = shift @ camera @ plane @ centring
    return np.asarray(matrix / matrix[2, 2])


def warp_perspective(image: Image, matrix: Matrix, height: int, width: int) -> Image:
    """Warp a gray image by a homography to the size ``[height, width]``.

    The image is mirrored at its border, and averaged before it is reduced.
    """
    middle = np.linalg.inv(matrix) @ [(width - 1) / 2, (height - 1) / 2, 1]
    _, scale, _ = project_with_jacobian(matrix, (middle[:2] / middle[2])[None].astype(np.float32))
    factor = float(scale[0])
    if factor < _MIN_SCALE:
        # The warp interpolates between four pixels only, so the image is averaged first.
        H, W = image.shape
        image = np.asarray(
            cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
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


def project_with_jacobian(
    matrix: Matrix, xy: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Project points by a homography, with its local scale and Jacobian at each.

    Args:
        matrix: Homography ``[3, 3]``.
        xy: Points ``[N, 2]``.

    Returns:
        Projected points ``[N, 2]``, scale factors ``[N]``, and Jacobians ``[N, 2, 2]``.
    """
    homogeneous = np.concatenate([xy, np.ones((len(xy), 1))], axis=1) @ matrix.T
    w = homogeneous[:, 2:]
    points = homogeneous[:, :2] / w
    jacobian = (matrix[None, :2, :2] - points[:, :, None] * matrix[None, 2:, :2]) / w[:, :, None]
    return points, np.sqrt(np.abs(np.linalg.det(jacobian))), jacobian


def project_keypoints(keypoints: Keypoints, matrix: Matrix) -> Keypoints:
    """Project keypoints by a homography, including their scales and orientations.

    Example:
        >>> keypoint = Keypoints(*(np.array(a, np.float32) for a in ([[5, 7]], [2], [0], [1])))
        >>> rotated = project_keypoints(keypoint, np.array([[0.0, -3, 0], [3, 0, 0], [0, 0, 1]]))
        >>> rotated.xy.tolist(), round(float(rotated.angle[0]), 2)
        ([[-21.0, 15.0]], 1.57)
    """
    points, _, jacobian = project_with_jacobian(matrix, keypoints.xy)
    return transform_keypoints(keypoints, points, jacobian)


def transform_keypoints(
    keypoints: Keypoints, points: NDArray[np.float64], jacobian: NDArray[np.float64]
) -> Keypoints:
    """Transform keypoints of one view to another, including their scales and orientations.

    The orientation of a keypoint is that of the image gradient. Edges are mapped by the Jacobian of
    the map between the views, gradients by its inverse transpose; in a view at a steep angle the
    two differ much.

    Args:
        keypoints: N keypoints of the first view.
        points: Their positions in the second view, ``[N, 2]``.
        jacobian: Jacobian of the map from the first view to the second at each, ``[N, 2, 2]``.

    Example:
        >>> keypoint = Keypoints(*(np.array(a, np.float32) for a in ([[5, 7]], [2], [0], [1])))
        >>> points, jacobian = np.array([[8.0, 9.0]]), 2 * np.eye(2)[None]
        >>> transform_keypoints(keypoint, points, jacobian).scale.tolist()
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


def find_repeated(expected: Keypoints, detected: Keypoints) -> NDArray[np.int64]:
    """Find the detected keypoint that repeats each expected one.

    A keypoint is repeated if its position differs by at most 3 pixels, its scale by a factor of at
    most 1.75, and its orientation by at most 35 degrees.

    Args:
        expected: N keypoints of another view, projected, see `project_keypoints`.
        detected: Keypoints of this view.

    Returns:
        Indices into `detected`, ``[N]``; -1 for keypoints that are not repeated.
    """
    best = np.full(len(expected.scale), -1)
    for start in range(0, len(best), _ROWS):
        rows = expected.select(slice(start, start + _ROWS))
        distance = np.hypot(*(rows.xy[:, None] - detected.xy[None]).transpose(2, 0, 1))
        i, j = np.nonzero(distance <= MAX_DISTANCE)
        zoom = np.abs(np.log(rows.scale[i] / detected.scale[j]))
        rotation = np.abs(np.angle(np.exp(1j * (rows.angle[i] - detected.angle[j]))))
        cost = distance[i, j] / MAX_DISTANCE + zoom / _MAX_SCALE_RATIO + rotation / _MAX_ROTATION
        fits = np.flatnonzero((zoom <= _MAX_SCALE_RATIO) & (rotation <= _MAX_ROTATION))
        order = fits[np.argsort(-cost[fits], kind="stable")]
        best[start + i[order]] = j[order]  # sorted by decreasing cost: the cheapest is written last
    return best


def apply_camera_noise(rng: Generator, image: Image) -> Image:
    """Apply random blur, tone curve, illumination, sensor noise and JPEG compression to an image.

    Args:
        rng: Source of randomness.
        image: Gray ``[H, W]``.

    Returns:
        Image of the same size.
    """
    H, W = image.shape
    if rng.random() < 0.4:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6)), np.uint8)
    gamma, contrast = np.exp(rng.normal(size=2) * 0.25)
    levels = (np.arange(256) / 255) ** gamma * 255
    table = ((levels - 128) * contrast + 128 + rng.normal() * 15).astype(np.float32)
    light = np.asarray(cv2.LUT(image, table), np.float32)
    if rng.random() < 0.5:  # a smooth illumination field
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
