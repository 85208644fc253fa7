"""Cameras of a panorama and their JSON file, which other photos of the same rig can reuse."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.io import replace_when_done
from flowmatch.io._files import reason_of
from flowmatch.stitch.photos import Size

CAMERA_MODELS = ("rotation", "affine")
_FORMAT = "flowmatch cameras 1"
_MAX_BYTES = 64 * 2**20  # size of the file; a thousand cameras need half a megabyte
_MAX_NUMBER = 1e12  # absolute value of any number in the file


class Camera(NamedTuple):
    """Camera of one photo.

    Attributes:
        name: Name of the photo.
        size: Width and height of the photo, pixels.
        focal: Focal length, pixels; 1 for an affine camera.
        aspect: Vertical focal length divided by the horizontal one.
        centre: Principal point x, y, pixels; 0, 0 for an affine camera.
        matrix: ``[3, 3]`` float64. For a rotating camera: the rotation from its axes (x right,
            y down, z forward) to those of the panorama. For an affine camera: the map from pixels
            of the photo to pixels of the panorama.
    """

    name: str
    size: Size
    focal: float
    aspect: float
    centre: tuple[float, float]
    matrix: NDArray[np.float64]

    def intrinsics(self, scale: float = 1.0) -> NDArray[np.float64]:
        """Return the camera matrix ``[3, 3]`` for the photo with its sides times `scale`."""
        # The centres of pixels are whole numbers: see `resizing_matrix`.
        x, y = ((c + 0.5) * scale - 0.5 for c in self.centre)
        f = self.focal * scale
        return np.array([[f, 0, x], [0, f * self.aspect, y], [0, 0, 1]])

    def affine(self, scale: float = 1.0) -> NDArray[np.float64]:
        """Return `matrix` between photo and panorama when both have their sides times `scale`."""
        resizing = resizing_matrix(scale)
        return np.asarray(resizing @ self.matrix @ np.linalg.inv(resizing))

    def of_size(self, size: Size) -> "Camera":
        """Return this camera for a photo of another resolution and the same shape.

        Raises:
            ValueError: `size` has another shape.
        """
        if size == self.size:
            return self
        (W, H), (w, h) = size, self.size
        scale = W / w
        if abs(H - h * scale) > 1 + scale:  # both heights were rounded
            raise ValueError(
                f"the camera of {self.name} fits photos of {w} x {h} pixels, or of the same shape "
                f"at another resolution, got {W} x {H}"
            )
        K = self.intrinsics(scale)
        return self._replace(
            size=size, focal=float(K[0, 0]), centre=(float(K[0, 2]), float(K[1, 2]))
        )


class Cameras(NamedTuple):
    """Cameras of one panorama.

    Attributes:
        motion: ``"rotation"`` or ``"affine"``, see `StitchOptions`.
        projection: Surface of the panorama, see `StitchOptions`; "plane" for affine cameras.
        cameras: Camera of each photo, in the order of the photos.
        error: Median distance of matched points, pixels of the reduced photos.
    """

    motion: str
    projection: str
    cameras: tuple[Camera, ...]
    error: float

    @property
    def names(self) -> list[str]:
        """Names of the photos."""
        return [camera.name for camera in self.cameras]

    def write(self, path: str | Path) -> None:
        """Write the cameras as JSON; `read_cameras` returns every number unchanged.

        Raises:
            OSError: The file cannot be written.
        """
        photos = [
            {
                "name": c.name,
                "width": c.size[0],
                "height": c.size[1],
                "focal": c.focal,
                "aspect": c.aspect,
                "centre": list(c.centre),
                "matrix": c.matrix.tolist(),
            }
            for c in self.cameras
        ]
        whole = {
            "format": _FORMAT,
            "motion": self.motion,
            "projection": self.projection,
            "error": self.error,
            "photos": photos,
        }
        with replace_when_done(path) as temporary:
            temporary.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def turn_view(cameras: Cameras, yaw: float, pitch: float, roll: float) -> Cameras:
    """Turn the direction in which a panorama looks.

    Args:
        cameras: Rotating cameras.
        yaw: Angle to the right, degrees: what was there becomes the middle.
        pitch: Angle upwards, degrees.
        roll: Clockwise angle, degrees, by which the picture turns counter-clockwise.

    Returns:
        The cameras in the axes of the turned view.

    Raises:
        ValueError: The cameras are affine.

    Example:
        >>> camera = Camera("a.jpg", (640, 480), 500.0, 1.0, (319.5, 239.5), np.eye(3))
        >>> cameras = Cameras("rotation", "plane", (camera,), 0.25)
        >>> turn_view(cameras, 90, 0, 0).cameras[0].matrix.round().tolist()[0]  # z is to the left
        [0.0, 0.0, -1.0]
    """
    if cameras.motion != "rotation":
        raise ValueError("the view of scans (affine cameras) cannot be turned")
    axes = np.radians([(0, yaw, 0), (pitch, 0, 0), (0, 0, roll)])
    by_yaw, by_pitch, by_roll = (np.asarray(cv2.Rodrigues(axis)[0], np.float64) for axis in axes)
    back = (by_yaw @ by_pitch @ by_roll).T
    return cameras._replace(
        cameras=tuple(camera._replace(matrix=back @ camera.matrix) for camera in cameras.cameras)
    )


def resizing_matrix(scale: float) -> NDArray[np.float64]:
    """Return the map ``[3, 3]`` from pixels of an image to pixels of it with sides times `scale`.

    Whole numbers are the centres of pixels.
    """
    shift = scale / 2 - 0.5
    return np.array([[scale, 0, shift], [0, scale, shift], [0, 0, 1]])


def read_cameras(path: str | Path) -> Cameras:
    """Read a file that `Cameras.write` wrote.

    Args:
        path: JSON file.

    Returns:
        The same cameras, bit by bit.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file has another format, or a number in it is out of range.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "rig.json"
        >>> camera = Camera("a.jpg", (640, 480), 500.0, 1.0, (319.5, 239.5), np.eye(3))
        >>> Cameras("rotation", "plane", (camera,), 0.25).write(file)
        >>> read_cameras(file).names
        ['a.jpg']
    """
    path = Path(path)
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} is not a file of cameras: it has {path.stat().st_size} bytes")
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a file of cameras: {reason_of(error)}") from None
    if not isinstance(whole, dict) or whole.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a file of cameras: expected format {_FORMAT!r}")
    try:
        with np.errstate(all="ignore"):  # products of large numbers
            return _checked(whole)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is a damaged file of cameras: {reason_of(error)}") from None


def _checked(whole: dict[str, Any]) -> Cameras:
    motion, projection = whole["motion"], whole["projection"]
    if motion not in CAMERA_MODELS:
        raise ValueError(f"motion must be one of {', '.join(CAMERA_MODELS)}, got {motion!r}")
    photos = whole["photos"]
    if not isinstance(photos, list) or not photos:
        raise ValueError("expected a list of photos")
    cameras = tuple(_camera(photo, motion) for photo in photos)
    return Cameras(motion, str(projection), cameras, float(whole["error"]))


def _camera(photo: dict[str, Any], motion: str) -> Camera:
    name = str(photo["name"])
    size = (int(photo["width"]), int(photo["height"]))
    numbers = _numbers(name, [photo["focal"], photo["aspect"], *photo["centre"]], (4,))
    focal, aspect, x, y = numbers.tolist()
    matrix = _numbers(name, photo["matrix"], (3, 3))
    if min(size) < 1 or max(size) > 2**20:
        raise ValueError(f"{name}: expected a size in pixels, got {size[0]} x {size[1]}")
    if not (focal > 0 and aspect > 0):
        raise ValueError(f"{name}: focal and aspect must be positive, got {focal} and {aspect}")
    if motion == "rotation" and not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3):
        raise ValueError(f"{name}: expected a rotation, got {matrix.tolist()}")
    if motion == "affine" and not (
        np.array_equal(matrix[2], [0, 0, 1]) and np.linalg.det(matrix) > 1e-9
    ):
        raise ValueError(f"{name}: expected an affine map, got {matrix.tolist()}")
    return Camera(name, size, focal, aspect, (x, y), matrix)


def _numbers(name: str, values: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.shape != shape or not (np.abs(array) < _MAX_NUMBER).all():
        raise ValueError(f"{name}: expected {math.prod(shape)} finite numbers, got {values}")
    return array


def assign_cameras(cameras: Cameras, names: Sequence[str], sizes: Sequence[Size]) -> list[Camera]:
    """Choose the camera of each photo: by name if the names are the same, else by order.

    Args:
        cameras: Cameras of the same photos or of the same rig.
        names: Names of the photos.
        sizes: Widths and heights of the photos.

    Returns:
        One camera for each photo, scaled to its size.

    Raises:
        ValueError: The numbers of photos and cameras differ, or a size does not fit.
    """
    if len(names) != len(cameras.cameras):
        raise ValueError(
            f"there are {len(cameras.cameras)} cameras ({', '.join(cameras.names)}), "
            f"got {len(names)} photos"
        )
    by_name = {camera.name: camera for camera in cameras.cameras}
    named = len(by_name) == len(names) and set(by_name) == set(names)
    chosen = [by_name[name] for name in names] if named else cameras.cameras
    return [camera.of_size(size) for camera, size in zip(chosen, sizes, strict=True)]
