"""Files of tracks: CSV, MOTChallenge's text, and NumPy's .npz; and files of points."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch.io import replace_when_done
from flowmatch.io._files import FilePath, entry_for_suffix, existing_file
from flowmatch.io._text import number_table
from flowmatch.tracking.box_tracks import BoxTracks
from flowmatch.tracking.boxes import Boxes
from flowmatch.tracking.point_tracks import Points, PointTracks

BOX_SUFFIXES = (".csv", ".txt", ".npz")
POINT_SUFFIXES = (".csv", ".npz")
_LARGEST = 2**26  # bytes of a text of numbers
_MOST_BOXES = 2**24  # frames times objects of a file of boxes


def write_tracks(path: FilePath, tracks: BoxTracks | PointTracks) -> None:
    """Write tracks to a file, which appears only when it is complete.

    - ``.csv``: a line of names, then a line for each object or point in each frame, numbered from
      0: ``frame,object,x,y,width,height,score,lost`` or ``frame,point,x,y,visible``, in pixels.
    - ``.txt``, for boxes: the lines of MOTChallenge, ``frame,id,left,top,width,height,score``
      and three times -1, where frames, objects and pixels are numbered from 1 and lost objects are
      left out.
    - ``.npz``: the arrays of the tracks by name.

    Args:
        path: File to write; its folder must exist.
        tracks: What `track_boxes` or `track_points` returned.

    Raises:
        ValueError: The suffix is none of these.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "tracks.csv"
        >>> one = PointTracks(np.array([0]), np.array([[(3.5, 4)]]), np.array([[True]]))
        >>> write_tracks(path, one)
        >>> print(path.read_text().strip())
        frame,point,x,y,visible
        0,0,3.500,4.000,1
    """
    path = Path(path)
    is_boxes = isinstance(tracks, BoxTracks)
    suffixes = BOX_SUFFIXES if is_boxes else POINT_SUFFIXES
    suffix = entry_for_suffix(path, {suffix: suffix for suffix in suffixes}, "file of tracks")
    with replace_when_done(path) as temporary:
        if suffix == ".npz":
            with temporary.open("wb") as file:  # NumPy adds .npz to names that end in .NPZ
                np.savez_compressed(file, **vars(tracks))
            return
        if isinstance(tracks, PointTracks):
            lines = _point_lines(tracks)
        else:
            lines = _mot_lines(tracks) if suffix == ".txt" else _box_lines(tracks)
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _box_lines(tracks: BoxTracks) -> Iterator[str]:
    yield "frame,object,x,y,width,height,score,lost"
    for t, frame in enumerate(tracks.frames.tolist()):
        for k, box in enumerate(tracks.boxes[t].tolist()):
            numbers = ",".join(f"{value:.3f}" for value in (*box, tracks.scores[t, k]))
            yield f"{frame},{k},{numbers},{int(tracks.lost[t, k])}"


def _mot_lines(tracks: BoxTracks) -> Iterator[str]:
    for t, frame in enumerate(tracks.frames.tolist()):
        for k, (x, y, width, height) in enumerate(tracks.boxes[t].tolist()):
            if not tracks.lost[t, k]:
                box = f"{x + 1:.3f},{y + 1:.3f},{width:.3f},{height:.3f}"
                yield f"{frame + 1},{k + 1},{box},{tracks.scores[t, k]:.3f},-1,-1,-1"


def _point_lines(tracks: PointTracks) -> Iterator[str]:
    yield "frame,point,x,y,visible"
    for t, frame in enumerate(tracks.frames.tolist()):
        for k, (x, y) in enumerate(tracks.points[t].tolist()):
            yield f"{frame},{k},{x:.3f},{y:.3f},{int(tracks.visible[t, k])}"


def read_points(path: FilePath) -> Points:
    r"""Read points from a text file: x and y in each line, with a comma or spaces between them.

    Args:
        path: The file; lines may end in a comment after #, and further columns are ignored.

    Returns:
        ``[N, 2]``.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A line holds no two numbers, or there is none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "points.txt"
        >>> _ = path.write_text("# x, y\n10, 20.5\n")
        >>> read_points(path).tolist()
        [[10.0, 20.5]]
    """
    points = _read_numbers(path, 2)
    if not len(points):
        raise ValueError(f"{path}: expected points, x and y in each line, got none")
    return points


def read_mot(path: FilePath) -> Boxes:
    r"""Read boxes from a text file of MOTChallenge: frame, object, left, top, width, height, ...

    Args:
        path: The file; frames, objects and pixels are numbered from 1.

    Returns:
        ``[T, N, 4]``: x, y, width, height with pixels from 0, NaN where no box is given; the
        objects in the order of their numbers.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A line holds other text or too few numbers, or numbers out of range.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "gt.txt"
        >>> _ = path.write_text("2,7,11,21,30,40,1,-1,-1,-1\n")
        >>> read_mot(path)[1].tolist()
        [[10.0, 20.0, 30.0, 40.0]]
    """
    rows = _read_numbers(path, 6)
    if not len(rows) or not np.isfinite(rows).all() or rows[:, 4:].min() <= 0:
        raise ValueError(f"{path}: expected boxes of finite numbers and positive sides")
    frames, objects = rows[:, 0], rows[:, 1]
    names, columns = np.unique(objects, return_inverse=True)
    most = _MOST_BOXES / len(names)
    if frames.min() < 1 or frames.max() > most or (frames % 1).any():
        raise ValueError(f"{path}: expected whole numbers of frames from 1, got {frames.max():g}")
    boxes = np.full((int(frames.max()), len(names), 4), np.nan)
    boxes[frames.astype(np.int64) - 1, columns] = rows[:, 2:] - (1, 1, 0, 0)
    return boxes


def _read_numbers(path: FilePath, columns: int) -> NDArray[np.float64]:
    path = existing_file(path)
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: expected lines of numbers, got {path.stat().st_size} bytes")
    with path.open("rb") as file:
        return number_table(path, file, tuple(range(columns)), comments=("#",))
