"""Features and matches of a list of pairs for COLMAP: its text formats and its database."""

import contextlib
import posixpath
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.io import replace_when_done
from flowmatch.io._files import FilePath
from flowmatch.io._orientation import Orientation, read_orientation
from flowmatch.matching.features import Matches
from flowmatch.matching.files import read_matches, write_colmap_features, write_colmap_matches
from flowmatch.matching.keypoints import Keypoints
from flowmatch.matching.pair_list import Pair

Camera = tuple[float, float, float, float]
"""Focal lengths and principal point (fx, fy, cx, cy), pixels; the first pixel is at (0, 0)."""

_CORNER = 0.5  # COLMAP's centre of the upper left pixel is (0.5, 0.5)
_MAX_IMAGES = 2**31 - 1  # factor of the first image in the number of a pair
_FOCAL_FACTOR = 1.2  # COLMAP's guess of the focal length, in longer sides of the image
_PINHOLE, _SIMPLE_RADIAL = 1, 2  # COLMAP's numbers of camera models
_UNCALIBRATED, _PLANAR_OR_PANORAMIC = 3, 6  # and of two-view geometries
_CAMERA_SENSOR = 0
_SCHEMA_VERSION = 4_02_01_00  # COLMAP 4.2.1

_SCHEMA = """
CREATE TABLE rigs (rig_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    ref_sensor_id INTEGER NOT NULL, ref_sensor_type INTEGER NOT NULL);
CREATE UNIQUE INDEX rig_ref_sensor_assignment ON rigs(ref_sensor_id, ref_sensor_type);
CREATE TABLE rig_sensors (rig_id INTEGER NOT NULL, sensor_id INTEGER NOT NULL,
    sensor_type INTEGER NOT NULL, sensor_from_rig BLOB,
    FOREIGN KEY(rig_id) REFERENCES rigs(rig_id) ON DELETE CASCADE);
CREATE UNIQUE INDEX rig_sensor_assignment ON rig_sensors(sensor_id, sensor_type);
CREATE TABLE cameras (camera_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    model INTEGER NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL, params BLOB,
    prior_focal_length INTEGER NOT NULL);
CREATE TABLE frames (frame_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    rig_id INTEGER NOT NULL, FOREIGN KEY(rig_id) REFERENCES rigs(rig_id) ON DELETE CASCADE);
CREATE TABLE frame_data (frame_id INTEGER NOT NULL, data_id INTEGER NOT NULL,
    sensor_id INTEGER NOT NULL, sensor_type INTEGER NOT NULL,
    FOREIGN KEY(frame_id) REFERENCES frames(frame_id) ON DELETE CASCADE);
CREATE UNIQUE INDEX frame_sensor_assignment ON frame_data(data_id, sensor_type);
CREATE TABLE images (image_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name TEXT NOT NULL UNIQUE, camera_id INTEGER NOT NULL,
    CONSTRAINT image_id_check CHECK(image_id >= 0 and image_id < 2147483647),
    FOREIGN KEY(camera_id) REFERENCES cameras(camera_id));
CREATE UNIQUE INDEX index_name ON images(name);
CREATE TABLE pose_priors (pose_prior_id INTEGER PRIMARY KEY NOT NULL,
    corr_data_id INTEGER NOT NULL, corr_sensor_id INTEGER NOT NULL,
    corr_sensor_type INTEGER NOT NULL, position BLOB, position_covariance BLOB, gravity BLOB,
    coordinate_system INTEGER NOT NULL);
CREATE UNIQUE INDEX pose_prior_data_assignment
    ON pose_priors(corr_data_id, corr_sensor_id, corr_sensor_type);
CREATE TABLE keypoints (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL,
    cols INTEGER NOT NULL, data BLOB,
    FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE descriptors (image_id INTEGER PRIMARY KEY NOT NULL, type INTEGER NOT NULL,
    rows INTEGER NOT NULL, cols INTEGER NOT NULL, data BLOB,
    FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE matches (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL,
    cols INTEGER NOT NULL, data BLOB);
CREATE TABLE two_view_geometries (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL,
    cols INTEGER NOT NULL, data BLOB, config INTEGER NOT NULL, F BLOB, E BLOB, H BLOB,
    qvec BLOB, tvec BLOB, camera1 BLOB, camera2 BLOB);
"""


class _StoredImage(NamedTuple):
    """An image as COLMAP sees it: the pixels that the file stores, without the EXIF orientation.

    Attributes:
        name: Name relative to the folder of the images.
        turn: Map from the pixels that were matched to those that the file stores.
        keypoints: Keypoints in the stored pixels.
    """

    name: str
    turn: Orientation
    keypoints: Keypoints


class _StoredPair(NamedTuple):
    first: _StoredImage
    second: _StoredImage
    matches: Matches


def write_colmap(
    folder: FilePath,
    matches: FilePath,
    pairs: Sequence[Pair],
    root: FilePath,
    *,
    camera: Camera | None = None,
) -> Path:
    """Write the features and matches of a list for COLMAP: its database, and text to import.

    COLMAP sees the pixels that a file stores, without the orientation in EXIF; so keypoints are
    written in that frame.

    Args:
        folder: Folder to write ``database.db``, ``features/NAME.txt`` of each image and
            ``matches.txt`` to.
        matches: Output folder of `match_pairs`.
        pairs: Pairs to write; those without a file in `matches` are skipped.
        root: Folder of the images.
        camera: Intrinsics of all images, see `write_colmap_database`.

    Returns:
        The path of ``database.db``.

    Raises:
        ValueError: A name is absolute, points outside the folder of the images, or cannot be read
            by COLMAP; or the pairs do not share the keypoints of an image, as those of LoFTR.
        FileNotFoundError: An image does not exist.
    """
    check_colmap_names(pairs)
    features, text = Path(folder) / "features", Path(folder) / "matches.txt"
    features.mkdir(parents=True, exist_ok=True)
    database = write_colmap_database(
        Path(folder) / "database.db", matches, pairs, root, camera=camera
    )
    written: set[str] = set()

    def results() -> Iterator[tuple[str, str, Matches]]:
        for pair in _stored_pairs(matches, pairs, root):
            for image in (pair.first, pair.second):
                if image.name not in written:
                    (features / image.name).parent.mkdir(parents=True, exist_ok=True)
                    write_colmap_features(features / f"{image.name}.txt", image.keypoints)
                    written.add(image.name)
            yield pair.first.name, pair.second.name, pair.matches

    write_colmap_matches(text, results())
    return database


def write_colmap_database(
    path: FilePath,
    matches: FilePath,
    pairs: Sequence[Pair],
    root: FilePath,
    *,
    camera: Camera | None = None,
) -> Path:
    """Write a database of COLMAP 4: cameras, images, keypoints, matches, two-view geometries.

    All matches go to the table ``matches``; the inliers of a trusted geometric model, see
    `Matches.trusted`, go with it to ``two_view_geometries``, so that COLMAP reconstructs without
    verifying again. Positions are of stored pixels, see `write_colmap`.

    Args:
        path: File to write; an existing one is replaced.
        matches: Output folder of `match_pairs`.
        pairs: Pairs to write; those without a file in `matches` are skipped.
        root: Folder of the images.
        camera: Intrinsics of all images, for one pinhole camera. None gives each image a camera
            with radial distortion and COLMAP's guess of the focal length, which it refines.

    Returns:
        The path.

    Raises:
        ValueError: A name points outside the folder of the images, or the pairs do not share the
            keypoints of an image, as those of LoFTR.
        FileNotFoundError: An image does not exist.
        OSError: The file cannot be written.

    Reference:
        colmap.github.io/database.html
    """
    for pair in pairs:
        _check_inside(pair)
    try:
        with (
            replace_when_done(Path(path)) as temporary,
            contextlib.closing(sqlite3.connect(temporary)) as connection,
            connection,
        ):
            connection.execute("PRAGMA journal_mode = MEMORY")  # no file beside the temporary one
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            writer = _DatabaseWriter(connection, camera)
            for stored in _stored_pairs(matches, pairs, root):
                writer.add(stored)
    except sqlite3.OperationalError as error:  # a full disk
        raise OSError(f"{path} cannot be written: {error}") from error
    return Path(path)


class _DatabaseWriter:
    """Rows of a database; an image gets its rows with its first pair."""

    def __init__(self, connection: sqlite3.Connection, camera: Camera | None) -> None:
        self.connection, self.camera = connection, camera
        self.images: dict[str, int] = {}
        self.cameras: dict[tuple[tuple[int, int], bytes], int] = {}
        self.pairs: set[int] = set()

    def add(self, pair: _StoredPair) -> None:
        first, second = self._image(pair.first), self._image(pair.second)
        number = min(first, second) * _MAX_IMAGES + max(first, second)
        if first == second or number in self.pairs:
            return
        self.pairs.add(number)
        is_swapped = first > second
        matches = pair.matches
        self._insert("matches", number, *_index_blob(matches.matches, is_swapped))
        if matches.matrix is None or not matches.trusted:
            return
        matrix = _stored_matrix(pair, is_swapped).tobytes()
        is_homography = matches.geometry == "homography"
        self._insert(
            "two_view_geometries",
            number,
            *_index_blob(matches.matches[matches.inliers], is_swapped),
            _PLANAR_OR_PANORAMIC if is_homography else _UNCALIBRATED,
            None if is_homography else matrix,
            None,
            matrix if is_homography else None,
            *[None] * 4,  # no relative pose, and the cameras as they are
        )

    def _image(self, image: _StoredImage) -> int:
        if image.name in self.images:
            return self.images[image.name]
        number = self.images[image.name] = len(self.images) + 1
        camera = self._camera(image.turn)
        self._insert("images", number, image.name, camera)
        self._insert("frames", number, camera)
        self._insert("frame_data", number, number, camera, _CAMERA_SENSOR)
        points = image.keypoints
        table = np.column_stack([points.xy + _CORNER, points.scale, points.angle])
        data = table.astype("<f4").tobytes()
        self._insert("keypoints", number, *table.shape, data)
        return number

    def _camera(self, turn: Orientation) -> int:
        W, H = turn.size
        if self.camera is None:
            model, guess = _SIMPLE_RADIAL, [_FOCAL_FACTOR * max(W, H), W / 2, H / 2, 0.0]
            params = np.array(guess).tobytes()
            key = turn.size, str(len(self.images)).encode()
        else:
            model = _PINHOLE
            focal = np.abs(turn.linear) @ self.camera[:2]
            centre = turn.linear @ self.camera[2:] + turn.shift + _CORNER
            params = np.concatenate([focal, centre]).tobytes()
            key = turn.size, params
        if key not in self.cameras:
            number = self.cameras[key] = len(self.cameras) + 1
            self._insert("cameras", number, model, W, H, params, int(self.camera is not None))
            self._insert("rigs", number, number, _CAMERA_SENSOR)
        return self.cameras[key]

    def _insert(self, table: str, *values: str | int | bytes | None) -> None:
        places = ", ".join("?" * len(values))
        self.connection.execute(f"INSERT INTO {table} VALUES ({places})", values)


def _index_blob(matches: NDArray[np.int64], is_swapped: bool) -> tuple[int, int, bytes]:
    """Return rows, columns and data of matches; the image with the smaller number comes first."""
    ordered = matches[:, ::-1] if is_swapped else matches
    return len(matches), 2, ordered.astype("<u4").tobytes()


def _stored_matrix(pair: _StoredPair, is_swapped: bool) -> NDArray[np.float64]:
    """Return the geometric model between stored pixels, in COLMAP's frame."""
    matrix = pair.matches.matrix
    assert matrix is not None
    first, second = (_stored_frame(image.turn) for image in (pair.first, pair.second))
    if pair.matches.geometry == "homography":
        result = second @ matrix @ np.linalg.inv(first)
        return np.linalg.inv(result) if is_swapped else result
    result = np.linalg.inv(second).T @ matrix @ np.linalg.inv(first)
    return np.ascontiguousarray(result.T if is_swapped else result)


def _stored_frame(turn: Orientation) -> NDArray[np.float64]:
    """Return the map from positions in the image that was matched to COLMAP's, ``[3, 3]``."""
    frame = np.eye(3)
    frame[:2, :2], frame[:2, 2] = turn.linear, turn.shift + _CORNER
    return frame


def _stored_pairs(
    matches: FilePath, pairs: Sequence[Pair], root: FilePath
) -> Iterator[_StoredPair]:
    """Read the pairs that have a file, each once, with positions of stored pixels."""
    turns: dict[str, tuple[Orientation, int]] = {}
    done: set[tuple[str, str]] = set()
    for pair in pairs:
        source = Path(matches) / pair.file()
        names = posixpath.normpath(pair.first), posixpath.normpath(pair.second)
        if not source.exists() or names in done:
            continue
        done.add(names)
        result = read_matches(source)
        images = []
        for name, points in zip(names, (result.keypoints0, result.keypoints1), strict=True):
            if name not in turns:
                turns[name] = read_orientation(Path(root) / name), _checksum(points)
            turn, checksum = turns[name]
            if checksum != _checksum(points):
                raise ValueError(
                    f"for COLMAP, the keypoints of an image have to be the same in all pairs, "
                    f"those of {name} are not: matcher loftr finds others in each pair"
                )
            stored = points._replace(xy=turn.points(points.xy), angle=turn.angles(points.angle))
            images.append(_StoredImage(name, turn, stored))
        yield _StoredPair(images[0], images[1], result)


def _checksum(points: Keypoints) -> int:
    return hash(points.xy.tobytes())


def check_colmap_names(pairs: Sequence[Pair]) -> None:
    """Raise ValueError for a name that COLMAP's importer of matches cannot read.

    It separates names by white space, takes # for a comment, and stops at the first name that it
    does not know.
    """
    for pair in pairs:
        _check_inside(pair)
        for name in pair:
            if re.search(r"[ \t\n\v\f\r]", name) or posixpath.normpath(name).startswith("#"):
                raise ValueError(
                    "COLMAP cannot read names with white space or with # at the beginning, "
                    f"got {name!r}: rename the file, or leave --colmap out"
                )


def _check_inside(pair: Pair) -> None:
    for name in pair:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(
                "for COLMAP, names have to be relative to the folder of the images and stay "
                f"in it, got {name!r}"
            )
