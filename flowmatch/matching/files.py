"""Matches in files: .npz that can be read again, .csv, .json, and what COLMAP imports."""

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
from flowmatch.io._files import FilePath, entry_for_suffix, existing_file
from flowmatch.matching.keypoints import Keypoints
from flowmatch.matching.match import MODELS_OF_GEOMETRY, Matches

# Arrays of an .npz: type and shape, K being matches and N, M keypoints.
_ARRAYS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "pairs": ("i8", ("K", 2)), "distance": ("f4", ("K",)), "inlier": ("b1", ("K",)),
    "matrix": ("f8", ("0 or 3", 3)),
    "xy0": ("f4", ("N", 2)), "scale0": ("f4", ("N",)), "angle0": ("f4", ("N",)),
    "score0": ("f4", ("N",)),
    "xy1": ("f4", ("M", 2)), "scale1": ("f4", ("M",)), "angle1": ("f4", ("M",)),
    "score1": ("f4", ("M",)),
}  # fmt: skip
_DECIDED = "similarity"
# Keypoints are at most a few 10,000; this is what no honest file has.
_LARGEST = 2**28


def write_matches(path: FilePath, matches: Matches, about: str = "") -> None:
    """Write matches to a file, by its suffix.

    Args:
        path: ``.npz``: everything, for `read_matches`; ``.csv``: a line for each match, with
            ``x0, y0, x1, y1, distance, inlier`` and, if a network decided, ``similarity``;
            ``.json``: the same, and the matrix.
        matches: What `match_images` found.
        about: A word on how they were found, kept in ``.npz`` and ``.json``.

    Raises:
        ValueError: Another suffix.
        FileNotFoundError: There is no such folder.

    Example:
        >>> import tempfile
        >>> from flowmatch.matching.match import match_images
        >>> path = Path(tempfile.mkdtemp()) / "matches.npz"
        >>> image = np.zeros((40, 60), np.uint8)
        >>> write_matches(path, match_images("rootsift", image, image))
        >>> read_matches(path).pairs.shape
        (0, 2)
    """
    path = Path(path)
    write = entry_for_suffix(path, _WRITERS, "file of matches")
    with replace_when_done(path) as beside:
        write(beside, matches, about)


def _write_npz(path: Path, matches: Matches, about: str) -> None:
    arrays: dict[str, Any] = {
        "pairs": matches.pairs,
        "distance": matches.distance,
        "inlier": matches.inlier,
        "matrix": np.empty((0, 3)) if matches.matrix is None else matches.matrix,
    }
    for side, keypoints in enumerate((matches.first, matches.second)):
        arrays |= {f"{name}{side}": array for name, array in keypoints._asdict().items()}
    if matches.similarity is not None:
        arrays["similarity"] = matches.similarity
    arrays |= {"model": np.array(matches.model or ""), "about": np.array(about)}
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
        "model": matches.model,
        "matrix": None if matches.matrix is None else matches.matrix.tolist(),
        "columns": _columns(matches),
        "matches": _rows(matches),
    }
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def _columns(matches: Matches) -> list[str]:
    more = [] if matches.similarity is None else ["similarity"]
    return ["x0", "y0", "x1", "y1", "distance", "inlier", *more]


def _rows(matches: Matches) -> list[list[float]]:
    # Rounded to what a float32 and a keypoint are worth.
    a, b = (np.round(points.astype(float), 3).tolist() for points in matches.points())
    columns = [_rounded(matches.distance), matches.inlier.astype(int).tolist()]
    if matches.similarity is not None:
        columns.append(_rounded(matches.similarity))
    return [[*p, *q, *more] for p, q, *more in zip(a, b, *columns, strict=True)]


def _rounded(numbers: NDArray[np.float32]) -> list[float]:
    return [float(f"{number:.6g}") for number in numbers.tolist()]


_WRITERS: dict[str, Callable[[Path, Matches, str], None]] = {
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".json": _write_json,
}
MATCH_SUFFIXES = tuple(_WRITERS)


def read_matches(path: FilePath) -> Matches:
    """Read the .npz that `write_matches` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or another .npz.
    """
    return _read_npz(existing_file(path))[0]


def about_matches(path: FilePath) -> str:
    """Return the word on how the matches in an .npz were found; raises as `read_matches` does."""
    return _read_npz(existing_file(path))[1]


def _read_npz(path: Path) -> tuple[Matches, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [*_ARRAYS, "model", "about"]
            if f"{_DECIDED}.npy" in archive.namelist():
                names.append(_DECIDED)
            arrays = {name: _read_member(archive, name) for name in names}
    except Exception as error:  # a damaged archive may fail in any way
        raise ValueError(f"{path} is not a whole file of matches (.npz): {error}") from error
    sizes: dict[str, int] = {}
    for name, (kind, shape) in (*_ARRAYS.items(), (_DECIDED, ("f4", ("K",)))):
        if name not in arrays:  # only what a network decided has a similarity
            continue
        array = arrays[name]
        fits = array.dtype == np.dtype(kind) and array.ndim == len(shape)
        for side, wanted in zip(array.shape, shape, strict=False):
            if wanted == "0 or 3":
                fits = fits and side in (0, 3)
            elif isinstance(wanted, str):
                fits = fits and sizes.setdefault(wanted, side) == side
            else:
                fits = fits and side == wanted
        if not fits:
            raise ValueError(
                f"{path}: expected {name} as {kind} [{', '.join(map(str, shape))}], "
                f"got {array.dtype} {list(array.shape)}"
            )
    model = str(arrays["model"]) or None
    pairs, counts = arrays["pairs"], np.array([sizes["N"], sizes["M"]])
    if not ((pairs >= 0) & (pairs < counts)).all() or model not in (None, *MODELS_OF_GEOMETRY):
        raise ValueError(f"{path}: matches refer to keypoints or a model that are not there")
    first, second = (
        Keypoints(*(arrays[f"{name}{side}"] for name in Keypoints._fields)) for side in (0, 1)
    )
    matrix = arrays["matrix"] if len(arrays["matrix"]) else None
    found = (pairs, arrays["distance"], arrays["inlier"], matrix, model)
    return Matches(first, second, *found, arrays.get(_DECIDED)), str(arrays["about"])


def _read_member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Read an array after its header was checked against what is stored."""
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > _LARGEST:
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

    Descriptors are zeros: the matches are imported as well, so that COLMAP compares none.

    Args:
        path: ``IMAGE.EXT.txt`` for the image ``IMAGE.EXT``.
        keypoints: Of that image.

    Reference:
        colmap.github.io/tutorial.html#feature-detection-and-extraction
    """
    zeros = " 0" * 128
    # COLMAP's upper left pixel has its centre at (0.5, 0.5).
    rows = np.column_stack([keypoints.xy + 0.5, keypoints.scale, keypoints.angle]).tolist()
    lines = [f"{x:.3f} {y:.3f} {scale:.4f} {angle:.5f}{zeros}" for x, y, scale, angle in rows]
    with replace_when_done(path) as beside:
        beside.write_text("\n".join([f"{len(rows)} 128", *lines]) + "\n", encoding="utf-8")


def write_colmap_matches(path: FilePath, pairs: Iterable[tuple[str, str, Matches]]) -> None:
    """Write matches as ``colmap matches_importer --match_type raw`` reads them.

    Args:
        path: The text file.
        pairs: Names of both images, as COLMAP knows them, and what was found. Of a model, only
            its inliers are written.

    Reference:
        colmap.github.io/tutorial.html#feature-matching-and-geometric-verification
    """
    with replace_when_done(path) as beside, beside.open("w", encoding="utf-8") as file:
        for first, second, matches in pairs:
            file.write(f"{first} {second}\n")
            file.writelines(f"{i} {j}\n" for i, j in matches.pairs[matches.inlier].tolist())
            file.write("\n")
