"""Files of matches: .npz (written and read), .csv, .json, and the text formats of COLMAP."""

import csv
import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from flowmatch.io import replace_when_done
from flowmatch.io._files import FilePath, entry_for_suffix, existing_file, reason_of
from flowmatch.matching.features import Matches
from flowmatch.matching.keypoints import Keypoints
from flowmatch.matching.options import GEOMETRIES

# Arrays of an .npz: type and shape for K matches of N and M keypoints.
_ARRAYS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "matches": ("i8", ("K", 2)), "distances": ("f4", ("K",)), "inliers": ("b1", ("K",)),
    "matrix": ("f8", ("0 or 3", 3)),
    "xy0": ("f4", ("N", 2)), "scale0": ("f4", ("N",)), "angle0": ("f4", ("N",)),
    "score0": ("f4", ("N",)),
    "xy1": ("f4", ("M", 2)), "scale1": ("f4", ("M",)), "angle1": ("f4", ("M",)),
    "score1": ("f4", ("M",)),
}  # fmt: skip
_SCORES = "scores"  # only in files of filtered matches
_MAX_BYTES = 2**28  # of one array; honest files hold at most a few 10,000 keypoints


def write_matches(path: FilePath, matches: Matches, about: str = "") -> None:
    """Write matches to a file, in the format of its suffix.

    Args:
        path: ``.npz``: all fields, for `read_matches`; ``.csv``: a line for each match, with
            ``x0, y0, x1, y1, distance, inlier`` and, if the matches were filtered, ``score``;
            ``.json``: the same and the matrix.
        matches: Result of `match_images`.
        about: Description of how they were found, stored in ``.npz`` and ``.json``.

    Raises:
        ValueError: The suffix is unknown.
        FileNotFoundError: The folder does not exist.

    Example:
        >>> import tempfile
        >>> from flowmatch.matching.match import match_images
        >>> path = Path(tempfile.mkdtemp()) / "matches.npz"
        >>> image = np.zeros((40, 60), np.uint8)
        >>> write_matches(path, match_images(image, image, model="rootsift"))
        >>> read_matches(path).matches.shape
        (0, 2)
    """
    path = Path(path)
    write = entry_for_suffix(path, _WRITERS, "file of matches")
    with replace_when_done(path) as temporary:
        write(temporary, matches, about)


def _write_npz(path: Path, matches: Matches, about: str) -> None:
    arrays: dict[str, Any] = {
        "matches": matches.matches,
        "distances": matches.distances,
        "inliers": matches.inliers,
        "matrix": np.empty((0, 3)) if matches.matrix is None else matches.matrix,
    }
    for side, keypoints in enumerate((matches.keypoints0, matches.keypoints1)):
        arrays |= {f"{name}{side}": array for name, array in keypoints._asdict().items()}
    if matches.scores is not None:
        arrays[_SCORES] = matches.scores
    arrays |= {"geometry": np.array(matches.geometry or ""), "about": np.array(about)}
    with path.open("wb") as file:  # NumPy adds .npz to names that end in .NPZ
        np.savez_compressed(file, **arrays)


def _write_csv(path: Path, matches: Matches, about: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_columns(matches))
        writer.writerows(_rows(matches))


def _write_json(path: Path, matches: Matches, about: str) -> None:
    content = {
        "about": about,
        "geometry": matches.geometry,
        "matrix": None if matches.matrix is None else matches.matrix.tolist(),
        "columns": _columns(matches),
        "matches": _rows(matches),
    }
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def _columns(matches: Matches) -> list[str]:
    score = [] if matches.scores is None else ["score"]
    return ["x0", "y0", "x1", "y1", "distance", "inlier", *score]


def _rows(matches: Matches) -> list[list[float]]:
    # Rounded to the accuracy of a keypoint and of float32.
    a, b = (np.round(points.astype(float), 3).tolist() for points in matches.points())
    columns = [_rounded(matches.distances), matches.inliers.astype(int).tolist()]
    if matches.scores is not None:
        columns.append(_rounded(matches.scores))
    return [[*p, *q, *values] for p, q, *values in zip(a, b, *columns, strict=True)]


def _rounded(numbers: NDArray[np.float32]) -> list[float]:
    return [float(f"{number:.6g}") for number in numbers.tolist()]


_WRITERS: dict[str, Callable[[Path, Matches, str], None]] = {
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".json": _write_json,
}
MATCH_SUFFIXES = tuple(_WRITERS)


def read_matches(path: FilePath) -> Matches:
    """Read an .npz file of `write_matches`.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or holds no matches.
    """
    return _read_npz(existing_file(path))[0]


def read_matches_about(path: FilePath) -> tuple[Matches, str]:
    """Return the matches in an .npz file and its description `about`, as `read_matches` does."""
    return _read_npz(existing_file(path))


def _read_npz(path: Path) -> tuple[Matches, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [*_ARRAYS, "geometry", "about"]
            if f"{_SCORES}.npy" in archive.namelist():
                names.append(_SCORES)
            arrays = {name: _read_member(archive, name) for name in names}
    except Exception as error:  # a damaged archive may fail in any way
        raise ValueError(
            f"{path} is not a whole file of matches (.npz): {reason_of(error)}"
        ) from error
    sizes: dict[str, int] = {}
    for name, (kind, shape) in (*_ARRAYS.items(), (_SCORES, ("f4", ("K",)))):
        if name not in arrays:
            continue
        array = arrays[name]
        fits = array.dtype == np.dtype(kind) and array.ndim == len(shape)
        for side, expected in zip(array.shape, shape, strict=False):
            if expected == "0 or 3":
                fits = fits and side in (0, 3)
            elif isinstance(expected, str):
                fits = fits and sizes.setdefault(expected, side) == side
            else:
                fits = fits and side == expected
        if not fits:
            raise ValueError(
                f"{path}: expected {name} as {kind} [{', '.join(map(str, shape))}], "
                f"got {array.dtype} {list(array.shape)}"
            )
    geometry = str(arrays["geometry"]) or None
    matches, counts = arrays["matches"], np.array([sizes["N"], sizes["M"]])
    if not ((matches >= 0) & (matches < counts)).all():
        raise ValueError(f"{path}: matches refer to keypoints that do not exist")
    if geometry not in (None, *GEOMETRIES):
        raise ValueError(f"{path}: expected geometry as one of {', '.join(GEOMETRIES)} or empty")
    first, second = (
        Keypoints(*(arrays[f"{name}{side}"] for name in Keypoints._fields)) for side in (0, 1)
    )
    matrix = arrays["matrix"] if len(arrays["matrix"]) else None
    fields = (matches, arrays["distances"], arrays["inliers"], matrix, geometry)
    return Matches(first, second, *fields, arrays.get(_SCORES)), str(arrays["about"])


def _read_member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Read an array after checking its header against the size of the entry."""
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > _MAX_BYTES:
        raise ValueError(f"{name} claims {entry.file_size} bytes")
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"expected version 1.0 of {name}, got {version}")
        shape, _, dtype = npy.read_array_header_1_0(file)
    if dtype.hasobject or dtype.itemsize * int(np.prod(shape, dtype=object)) > entry.file_size:
        raise ValueError(f"{name} claims {dtype} {list(shape)} in {entry.file_size} bytes")
    with archive.open(entry) as file:
        return np.asarray(npy.read_array(file, allow_pickle=False))


# ---- COLMAP ------------------------------------------------------------------------------------


def write_colmap_features(path: FilePath, keypoints: Keypoints) -> None:
    """Write keypoints as ``colmap feature_importer`` reads them.

    Descriptors are written as zeros: the matches are imported too, so COLMAP does not compare them.

    Args:
        path: ``IMAGE.EXT.txt`` for the image ``IMAGE.EXT``.
        keypoints: Keypoints of that image.

    Reference:
        colmap.github.io/tutorial.html#feature-detection-and-extraction
    """
    zeros = " 0" * 128
    # In COLMAP the centre of the upper left pixel is (0.5, 0.5).
    rows = np.column_stack([keypoints.xy + 0.5, keypoints.scale, keypoints.angle]).tolist()
    lines = [f"{x:.3f} {y:.3f} {scale:.4f} {angle:.5f}{zeros}" for x, y, scale, angle in rows]
    with replace_when_done(path) as temporary:
        temporary.write_text("\n".join([f"{len(rows)} 128", *lines]) + "\n", encoding="utf-8")


def write_colmap_matches(path: FilePath, pairs: Iterable[tuple[str, str, Matches]]) -> None:
    """Write matches as ``colmap matches_importer --match_type raw`` reads them.

    Args:
        path: Text file to write.
        pairs: Names of both images in COLMAP's database, and their matches. Only inliers are
            written.

    Reference:
        colmap.github.io/tutorial.html#feature-matching-and-geometric-verification
    """
    with replace_when_done(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for first, second, matches in pairs:
            file.write(f"{first} {second}\n")
            file.writelines(f"{i} {j}\n" for i, j in matches.matches[matches.inliers].tolist())
            file.write("\n")
