"""Cameras of a panorama, and their file: found once, used for as many photos as one likes."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.io import replace_when_done
from flowmatch.stitch.photos import Size

MODELS = ("rotation", "affine")
_FORMAT = "flowmatch cameras 1"
_MOST_BYTES = 64 * 2**20  # of a file of cameras; a thousand of them need half a megabyte
_FAR = 1e12  # what a number in it may be at most


class Camera(NamedTuple):
    """How one photo was taken.

    Attributes:
        name: Of the photo.
        size: Its width and height, pixels.
        focal: Focal length, pixels; 1 for an affine camera.
        aspect: Vertical by horizontal focal length.
        center: The principal point x, y, pixels; 0, 0 for an affine camera.
        matrix: ``[3, 3]`` float64. Of a camera that turned: the rotation from its axes (x right,
            y down, z forward) to those of the panorama. Of an affine one: the map from pixels of
            the photo to pixels of the panorama.
    """

    name: str
    size: Size
    focal: float
    aspect: float
    center: tuple[float, float]
    matrix: NDArray[np.float64]

    def intrinsics(self, scale: float = 1.0) -> NDArray[np.float64]:
        """Return the camera matrix ``[3, 3]`` of the photo with its sides times `scale`."""
        x, y = ((c + 0.5) * scale - 0.5 for c in self.center)  # as in `resizing`
        f = self.focal * scale
        return np.array([[f, 0, x], [0, f * self.aspect, y], [0, 0, 1]])

    def affine(self, scale: float = 1.0) -> NDArray[np.float64]:
        """Return `matrix` between photo and panorama when both have their sides times `scale`."""
        there = resizing(scale)
        return np.asarray(there @ self.matrix @ np.linalg.inv(there))

    def of_size(self, size: Size) -> "Camera":
        """Return this camera for a photo of another resolution, of the same shape.

        Raises:
            ValueError: `size` is of another shape.
        """
        if size == self.size:
            return self
        (W, H), (w, h) = size, self.size
        scale = W / w
        if abs(H - h * scale) > 1 + scale:  # both heights have been rounded
            raise ValueError(
                f"the camera of {self.name} is for photos of {w} x {h} pixels, or as many times "
                f"larger or smaller both ways, got {W} x {H}"
            )
        K = self.intrinsics(scale)
        return self._replace(
            size=size, focal=float(K[0, 0]), center=(float(K[0, 2]), float(K[1, 2]))
        )


class Cameras(NamedTuple):
    """The cameras of one panorama.

    Attributes:
        model: ``"rotation"`` or ``"affine"``.
        projection: What the panorama is drawn on, see `Style`; "plane" for affine cameras.
        cameras: One for each photo, in the order in which the photos were given.
        error: Pixels of the photos at registration, by which matched points miss each other, their
            median.
    """

    model: str
    projection: str
    cameras: tuple[Camera, ...]
    error: float

    @property
    def names(self) -> list[str]:
        """Names of the photos."""
        return [camera.name for camera in self.cameras]

    def write(self, path: str | Path) -> None:
        """Write the cameras as JSON; every number comes back as it is.

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
                "center": list(c.center),
                "matrix": c.matrix.tolist(),
            }
            for c in self.cameras
        ]
        whole = {
            "format": _FORMAT,
            "model": self.model,
            "projection": self.projection,
            "error": self.error,
            "photos": photos,
        }
        with replace_when_done(path) as beside:
            beside.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def resizing(scale: float) -> NDArray[np.float64]:
    """Return the map ``[3, 3]`` from pixels of an image to those of it with sides times `scale`."""
    shift = scale / 2 - 0.5  # whole numbers are the centres of pixels
    return np.array([[scale, 0, shift], [0, scale, shift], [0, 0, 1]])


def read_cameras(path: str | Path) -> Cameras:
    """Read cameras that `Cameras.write` wrote.

    Args:
        path: A JSON file.

    Returns:
        The same cameras, bit by bit.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds something else, or a number out of range.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "rig.json"
        >>> camera = Camera("a.jpg", (640, 480), 500.0, 1.0, (319.5, 239.5), np.eye(3))
        >>> Cameras("rotation", "plane", (camera,), 0.25).write(file)
        >>> read_cameras(file).names
        ['a.jpg']
    """
    path = Path(path)
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} is no file of cameras: it has {path.stat().st_size} bytes")
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no file of cameras: {error}") from None
    if not isinstance(whole, dict) or whole.get("format") != _FORMAT:
        raise ValueError(f"{path} is no file of cameras: expected format {_FORMAT!r}")
    try:
        return _checked(whole)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is a damaged file of cameras: {reason}") from None


def _checked(whole: dict[str, Any]) -> Cameras:
    model, projection = whole["model"], whole["projection"]
    if model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {model!r}")
    photos = whole["photos"]
    if not isinstance(photos, list) or not photos:
        raise ValueError("expected a list of photos")
    cameras = tuple(_camera(photo, model) for photo in photos)
    return Cameras(model, str(projection), cameras, float(whole["error"]))


def _camera(photo: dict[str, Any], model: str) -> Camera:
    name = str(photo["name"])
    size = (int(photo["width"]), int(photo["height"]))
    numbers = _numbers(name, [photo["focal"], photo["aspect"], *photo["center"]], (4,))
    focal, aspect, x, y = numbers.tolist()
    matrix = _numbers(name, photo["matrix"], (3, 3))
    if min(size) < 1 or max(size) > 2**20:
        raise ValueError(f"{name}: expected a size in pixels, got {size[0]} x {size[1]}")
    if not (focal > 0 and aspect > 0):
        raise ValueError(f"{name}: focal and aspect must be positive, got {focal} and {aspect}")
    if model == "rotation" and not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3):
        raise ValueError(f"{name}: expected a rotation, got {matrix.tolist()}")
    if model == "affine" and not (
        np.array_equal(matrix[2], [0, 0, 1]) and np.linalg.det(matrix) > 1e-9
    ):
        raise ValueError(f"{name}: expected an affine map, got {matrix.tolist()}")
    return Camera(name, size, focal, aspect, (x, y), matrix)


def _numbers(name: str, values: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.shape != shape or not (np.abs(array) < _FAR).all():
        raise ValueError(f"{name}: expected {math.prod(shape)} finite numbers, got {values}")
    return array


def assign(cameras: Cameras, names: Sequence[str], sizes: Sequence[Size]) -> list[Camera]:
    """Give each photo its camera: by name if all names are known, else by order.

    Args:
        cameras: Of the same rig.
        names: Of the photos.
        sizes: Their widths and heights.

    Returns:
        One camera for each photo, for its size.

    Raises:
        ValueError: There are not as many photos as cameras, or sizes do not fit.
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
