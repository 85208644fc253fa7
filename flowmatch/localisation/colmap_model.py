"""Models of COLMAP: poses of pictures, and the points of the world that their keypoints show."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree  # type: ignore[import-untyped]
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

from flowmatch.io._files import FilePath

NEAR = 2.0
"""Largest distance of a pixel from the keypoint whose point of the world it is taken to show."""

# Number of parameters of the camera models, in the order of their numbers in binary files.
_PARAMETERS = {
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12,
    "FOV": 5,
    "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5,
    "THIN_PRISM_FISHEYE": 12,
    "RAD_TAN_THIN_PRISM_FISHEYE": 16,
}

_Camera = tuple[str, tuple[int, int], NDArray[np.float64]]  # model, size, parameters
# Name, camera, quaternion (w, x, y, z), translation, keypoints, numbers of their points.
_Picture = tuple[
    str, int, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]
]


@dataclass
class ColmapModel:
    """A sparse model of COLMAP, for `localise_photo`: files in text or in binary form.

    Lengths are in the unit of the model, which COLMAP chooses.

    Attributes:
        folder: Folder with ``cameras``, ``images`` and ``points3D``, ``.bin`` or ``.txt``.
        camera: Intrinsics ``[3, 3]`` if there is one camera, without distortion; else None.
        poses: Camera-to-world motion ``[4, 4]`` of each picture by its name.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or no picture has a point.
    """

    folder: FilePath
    camera: NDArray[np.float64] | None = field(init=False)
    poses: dict[str, NDArray[np.float64]] = field(init=False)
    metric = False

    def __post_init__(self) -> None:
        """Read the model."""
        self.folder = Path(self.folder)
        suffix = ".bin" if (self.folder / "images.bin").is_file() else ".txt"
        files = [self.folder / f"{name}{suffix}" for name in ("cameras", "images", "points3D")]
        readers = _READERS[suffix]
        cameras = dict(_checked(files[0], readers[0]))
        points = dict(_checked(files[2], readers[2]))
        self.poses, self._sizes, self._seen = {}, {}, {}
        for name, camera, quaternion, translation, xy, numbers in _checked(files[1], readers[1]):
            if camera not in cameras:
                raise ValueError(f"{files[1]}: {name} has camera {camera}, which is not there")
            known = np.array([number in points for number in numbers.tolist()], np.bool_)
            if not known.any():
                continue
            R = Rotation.from_quat(np.roll(quaternion, -1)).as_matrix()
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = R.T, -R.T @ translation
            world = np.array([points[number] for number in numbers[known].tolist()])
            # In COLMAP the centre of the first pixel is (0.5, 0.5).
            self._seen[name] = cKDTree(xy[known] - 0.5), world
            self.poses[name], self._sizes[name] = pose, cameras[camera][1]
        if not self.poses:
            raise ValueError(f"{self.folder}: expected pictures with points, got none")
        self.camera = _intrinsics(list(cameras.values()))

    def key(self, name: str) -> str:
        """Return the name in `poses` of a picture of an index."""
        return name

    def points(
        self, name: str, xy: ArrayLike, size: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the points of the world that pixels of a picture show.

        Args:
            name: Name of the picture.
            xy: Pixels ``[N, 2]``.
            size: Width and height of the picture, which must be those of its camera.

        Returns:
            Points ``[N, 3]``, and where they are known: within `NEAR` pixels of a keypoint that has
            a point.
        """
        if size != self._sizes[name]:
            expected = " x ".join(map(str, self._sizes[name]))
            raise ValueError(f"{name}: expected {expected} pixels, got {size[0]} x {size[1]}")
        tree, world = self._seen[name]
        distance, index = tree.query(np.asarray(xy, np.float64).reshape(-1, 2))
        return world[index], np.asarray(distance <= NEAR)


def is_colmap_model(folder: FilePath) -> bool:
    """Return whether a folder holds a model of COLMAP."""
    return any((Path(folder) / f"images.{suffix}").is_file() for suffix in ("bin", "txt"))


def _intrinsics(cameras: list[_Camera]) -> NDArray[np.float64] | None:
    if len(cameras) != 1 or cameras[0][0] not in ("SIMPLE_PINHOLE", "PINHOLE"):
        return None
    *focal, cx, cy = cameras[0][2]
    return np.array([[focal[0], 0, cx - 0.5], [0, focal[-1], cy - 0.5], [0, 0, 1]])


def _checked(path: Path, reader: Callable[[Path], Iterator[Any]]) -> list[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    try:
        return list(reader(path))
    except (ValueError, IndexError, struct.error) as error:
        raise ValueError(f"{path} is not a file of COLMAP, or damaged: {error}") from None


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"expected finite numbers, got {array.ravel()[:8]}")
    return array


def _pose(values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return quaternion and translation, world to camera."""
    pose = _finite(values)
    if not pose[:4].any():
        raise ValueError("expected quaternions, got one of zeros")
    return pose[:4], pose[4:]


def _camera(number: int, model: str, size: list[int], values: ArrayLike) -> tuple[int, _Camera]:
    parameters = _finite(values)
    if model not in _PARAMETERS or len(parameters) != _PARAMETERS[model]:
        raise ValueError(f"camera {number} is {model} with {len(parameters)} parameters")
    return number, (model, (size[0], size[1]), parameters)


# ---- Text --------------------------------------------------------------------------------------


def _lines(path: Path) -> list[str]:
    text = path.read_bytes().decode("utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


def _text_cameras(path: Path) -> Iterator[tuple[int, _Camera]]:
    for line in filter(str.strip, _lines(path)):
        number, model, width, height, *values = line.split()
        yield _camera(int(number), model, [int(width), int(height)], [float(v) for v in values])


def _text_pictures(path: Path) -> Iterator[_Picture]:
    lines = _lines(path)
    while lines and not lines[-1].strip() and len(lines) % 2:
        lines.pop()
    if len(lines) % 2:
        raise ValueError(f"expected two lines for each picture, got {len(lines)} lines")
    for head, keypoints in zip(lines[::2], lines[1::2], strict=True):
        words = head.split(maxsplit=9)
        columns = np.array(keypoints.split()).reshape(-1, 3)
        xy = _finite(columns[:, :2].astype(np.float64))
        pose = _pose([float(word) for word in words[1:8]])
        yield words[9], int(words[8]), *pose, xy, columns[:, 2].astype(np.int64)


def _text_points(path: Path) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for line in filter(str.strip, _lines(path)):
        number, x, y, z, _ = line.split(maxsplit=4)
        yield int(number), _finite([float(x), float(y), float(z)])


# ---- Binary ------------------------------------------------------------------------------------


class _Bytes:
    """A file in memory, whose counts are compared with what is left of it."""

    def __init__(self, path: Path) -> None:
        self.content, self.place = path.read_bytes(), 0

    def take(self, form: str) -> tuple[int | float, ...]:
        values = struct.unpack_from(f"<{form}", self.content, self.place)
        self.place += struct.calcsize(f"<{form}")
        return values

    def count(self, smallest: int) -> int:
        """Return the number of items that follow, of at least `smallest` bytes each."""
        number = int(self.take("Q")[0])
        if number * smallest > len(self.content) - self.place:
            raise ValueError(f"{number} items announced, more than the file can hold")
        return number

    def table(self, number: int, kind: np.dtype[np.void]) -> NDArray[np.void]:
        values = np.frombuffer(self.content, kind, number, self.place)
        self.place += number * kind.itemsize
        return values

    def text(self) -> str:
        end = self.content.index(b"\0", self.place)
        value = self.content[self.place : end].decode("utf-8")
        self.place = end + 1
        return value


def _binary_cameras(path: Path) -> Iterator[tuple[int, _Camera]]:
    data = _Bytes(path)
    for _ in range(data.count(24)):
        number, model, width, height = map(int, data.take("iiQQ"))
        if not 0 <= model < len(_PARAMETERS):
            raise ValueError(f"camera {number} has the unknown model {model}")
        name = list(_PARAMETERS)[model]
        yield _camera(number, name, [width, height], data.take(f"{_PARAMETERS[name]}d"))


def _binary_pictures(path: Path) -> Iterator[_Picture]:
    data = _Bytes(path)
    kind = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
    for _ in range(data.count(73)):
        values = data.take("i7di")
        name = data.text()
        table = data.table(data.count(kind.itemsize), kind)
        xy = _finite(table["xy"].reshape(-1, 2))
        yield name, int(values[8]), *_pose(values[1:8]), xy, table["point"].astype(np.int64)


def _binary_points(path: Path) -> Iterator[tuple[int, NDArray[np.float64]]]:
    data = _Bytes(path)
    for _ in range(data.count(51)):
        number, *position = data.take("Q3d3Bd")[:4]
        track = data.count(8)
        data.place += 8 * track
        yield int(number), _finite(position)


_READERS = {
    ".txt": (_text_cameras, _text_pictures, _text_points),
    ".bin": (_binary_cameras, _binary_pictures, _binary_points),
}
