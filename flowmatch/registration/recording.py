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

_TIMELINE = "step"  # 0 before, 1 after the registration
_INLIER, _OUTLIER = (0, 130, 60), (200, 60, 60)


def require_rerun() -> None:
    """Raise an ImportError that names the missing package if rerun-sdk is not installed."""
    if importlib.util.find_spec("rerun") is None:
        raise ImportError("a recording needs rerun-sdk: pip install 'flowmatch[rerun]'")


def record_registration(
    path: str | Path, source: ArrayLike, target: ArrayLike, result: Registration
) -> None:
    """Write a recording of two scans, before and after, with their correspondences.

    Args:
        path: File to write, ``.rrd``; view it with ``rerun FILE``.
        source: ``[N, 3]``, metres.
        target: ``[M, 3]``.
        result: Registration of the two scans.

    Raises:
        ImportError: rerun-sdk is not installed.
        FileNotFoundError: The folder does not exist.
    """
    first, second = result.correspondences[:, 0], result.correspondences[:, 1]
    with _recording(path) as (rerun, stream):
        _scans(rerun, stream, [source, target], ["source", "target"])
        for step, motion in enumerate((np.eye(4), result.motion)):
            stream.set_time(_TIMELINE, sequence=step)
            stream.log("source", _transform(rerun, motion))
            moved = transform_points(motion, first)
            for name, chosen, colour in (
                ("right", result.inliers, _INLIER),
                ("wrong", ~result.inliers, _OUTLIER),
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
    """Write a recording of several scans, before and after registration.

    Args:
        path: File to write, ``.rrd``.
        scans: ``[N, 3]`` each, metres.
        motions: ``[S, 4, 4]``, each scan to the common frame.
        names: Names of the scans.

    Raises:
        ImportError: rerun-sdk is not installed.
        FileNotFoundError: The folder does not exist.
    """
    matrices = np.asarray(motions, np.float64)
    with _recording(path) as (rerun, stream):
        _scans(rerun, stream, scans, names)
        for step in (0, 1):
            stream.set_time(_TIMELINE, sequence=step)
            for name, motion in zip(names, matrices, strict=True):
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
            stream.disconnect()  # also flushes what is buffered


def _scans(rerun: Any, stream: Any, scans: Sequence[ArrayLike], names: Sequence[str]) -> None:
    for k, (name, points) in enumerate(zip(names, scans, strict=True)):
        cloud = rerun.Points3D(np.asarray(points, np.float32), colors=[colour_of(k)])
        stream.log(name, cloud, static=True)


def _transform(rerun: Any, motion: NDArray[np.float64]) -> Any:
    return rerun.Transform3D(translation=motion[:3, 3], mat3x3=motion[:3, :3])
