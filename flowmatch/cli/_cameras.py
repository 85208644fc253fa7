"""Intrinsics of a camera from the command line: numbers, a line of COLMAP, or a file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch.io import read_intrinsics
from flowmatch.matching.colmap import Camera

_LARGEST = 2**16  # bytes of a file
_MODELS = {"SIMPLE_PINHOLE": (0, 0, 1, 2), "PINHOLE": (0, 1, 2, 3)}  # places of fx, fy, cx, cy
_FORMS = "fx,fy,cx,cy in pixels, a line of COLMAP's cameras.txt, or a file of intrinsics"
CAMERA_HELP = (
    "focal lengths and principal point in pixels; or a line of COLMAP's cameras.txt; or a file "
    "with one of them or with a 3 x 3 matrix."
)


def parse_camera(text: str) -> Camera:
    """Return focal lengths and principal point, pixels; the centre of the first pixel is (0, 0).

    Args:
        text: ``fx,fy,cx,cy``; a line of COLMAP's cameras.txt without distortion; or a file with one
            of them, or with a matrix as `read_intrinsics` reads it.

    Raises:
        ValueError: It is none of them, or there is distortion.
        FileNotFoundError: The file does not exist.

    Example:
        >>> parse_camera("1 SIMPLE_PINHOLE 640 480 500 320.5 240.5")
        (500.0, 500.0, 320.0, 240.0)
    """
    camera = _numbers(text) or _colmap(text, "--camera")
    if camera is None and Path(text).is_file():
        camera = _from_file(Path(text))
    if camera is None:
        raise ValueError(f"--camera must be {_FORMS}, got {text!r}")
    fx, fy, *_ = camera
    if not (fx > 0 and fy > 0 and np.isfinite(camera).all()):
        raise ValueError(
            f"--camera must have positive focal lengths and finite numbers, got {text!r}"
        )
    return camera


def camera_matrix(camera: Camera) -> NDArray[np.float64]:
    """Return the intrinsics ``[3, 3]``."""
    fx, fy, cx, cy = camera
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _from_file(path: Path) -> Camera:
    size = path.stat().st_size
    if size > _LARGEST:
        raise ValueError(f"{path}: expected the intrinsics of one camera, got {size} bytes")
    text = path.read_bytes().decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    cameras = [_numbers(line) or _colmap(line, str(path)) for line in lines]
    if any(camera is not None for camera in cameras):
        if len(cameras) > 1 or cameras[0] is None:
            raise ValueError(f"{path}: expected one camera, got {len(lines)} lines")
        return cameras[0]
    matrix = read_intrinsics(path)
    return (float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2]))


def _numbers(text: str) -> Camera | None:
    try:
        fx, fy, cx, cy = (float(number) for number in text.split(","))
    except ValueError:
        return None
    return fx, fy, cx, cy


def _colmap(line: str, name: str) -> Camera | None:
    words = line.split()
    if len(words) < 5 or not words[1].isupper():
        return None
    if words[1] not in _MODELS:
        raise ValueError(
            f"{name}: expected a camera without distortion, {' or '.join(_MODELS)}, "
            f"got {words[1]}: image_undistorter of COLMAP removes it"
        )
    places = _MODELS[words[1]]
    try:
        values = [float(word) for word in words[4:]]
    except ValueError:
        return None
    if len(values) != max(places) + 1:
        return None
    fx, fy, cx, cy = (values[place] for place in places)
    return fx, fy, cx - 0.5, cy - 0.5  # in COLMAP the centre of the first pixel is (0.5, 0.5)
