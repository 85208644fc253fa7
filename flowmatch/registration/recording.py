"""Recordings of registrations for the rerun viewer."""

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.geometry import transform_points
from flowmatch.io import replace_when_done
from flowmatch.registration.draw import colour_of
from flowmatch.registration.register import Registration

_TIMELINE = "step"  # 0 as the scans came, 1 as they were laid together
_RIGHT, _WRONG = (0, 130, 60), (200, 60, 60)


def require_rerun() -> None:
    """Raise an ImportError that says what to install, if recordings cannot be made."""
    if importlib.util.find_spec("rerun") is None:
        raise ImportError("a recording needs rerun-sdk: pip install 'flowmatch[rerun]'")


def record_registration(
    path: str | Path, source: ArrayLike, target: ArrayLike, found: Registration
) -> None:
    """Write a recording of two scans, before and after, with their correspondences.

    Args:
        path: File to write, ``.rrd``; see it with ``rerun FILE``.
        source: ``[N, 3]``, metres.
        target: ``[M, 3]``.
        found: How they fit together.

    Raises:
        ImportError: rerun-sdk is not installed.
        FileNotFoundError: The folder does not exist.
    """
    first, second = found.correspondences[:, 0], found.correspondences[:, 1]
    with _recording(path) as (rerun, stream):
        _scans(rerun, stream, [source, target], ["source", "target"])
        for step, motion in enumerate((np.eye(4), found.motion)):
            stream.set_time(_TIMELINE, sequence=step)
            stream.log("source", _transform(rerun, motion))
            moved = transform_points(motion, first)
            for name, chosen, colour in (
                ("right", found.inliers, _RIGHT),
                ("wrong", ~found.inliers, _WRONG),
            ):
                lines = np.stack([moved[chosen], second[chosen]], axis=1).astype(np.float32)
                strips = rerun.LineStrips3D(lines, colors=[colour])
                stream.log(f"correspondences/{name}", strips)


def record_merged(
    path: str | Path,
    scans: Sequence[ArrayLike],
    motions: ArrayLike,
    names: Sequence[str],
) -> None:
    """Write a recording of several scans, as they came and laid together.

    Args:
        path: As in `record_registration`.
        scans: Each ``[N, 3]``, metres.
        motions: ``[S, 4, 4]``.
        names: Of each.

    Raises:
        ImportError: rerun-sdk is not installed.
        FileNotFoundError: The folder does not exist.
    """
    placed = np.asarray(motions, np.float64)
    with _recording(path) as (rerun, stream):
        _scans(rerun, stream, scans, names)
        for step in (0, 1):
            stream.set_time(_TIMELINE, sequence=step)
            for name, motion in zip(names, placed, strict=True):
                stream.log(name, _transform(rerun, motion if step else np.eye(4)))


@contextmanager
def _recording(path: str | Path) -> Iterator[tuple[Any, Any]]:
    require_rerun()
    rerun: Any = importlib.import_module("rerun")
    with replace_when_done(Path(path)) as temporary:
        stream = rerun.RecordingStream("flowmatch")
        stream.save(str(temporary))
        try:
            yield rerun, stream
        finally:
            stream.disconnect()  # which also writes what is still on its way


def _scans(rerun: Any, stream: Any, scans: Sequence[ArrayLike], names: Sequence[str]) -> None:
    for k, (name, points) in enumerate(zip(names, scans, strict=True)):
        cloud = rerun.Points3D(np.asarray(points, np.float32), colors=[colour_of(k)])
        stream.log(name, cloud, static=True)


def _transform(rerun: Any, motion: NDArray[np.float64]) -> Any:
    return rerun.Transform3D(translation=motion[:3, 3], mat3x3=motion[:3, :3])
