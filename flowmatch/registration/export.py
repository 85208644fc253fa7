"""Results of registrations as clouds and as JSON-ready summaries."""

import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from flowmatch.io import merge_cloud_files
from flowmatch.io._files import FilePath
from flowmatch.registration.draw import colour_of
from flowmatch.registration.graph import MultiwayRegistration
from flowmatch.registration.register import Registration


def write_merged(
    path: FilePath,
    scans: Sequence[FilePath | ArrayLike],
    motions: ArrayLike,
    *,
    numbers: Sequence[int] | None = None,
    frame: FilePath | None = None,
) -> list[str]:
    """Write scans, moved into one frame, as one cloud with all properties of their points.

    Args:
        path: File to write.
        scans: Files, or points ``[N, 3]``, metres.
        motions: ``[S, 4, 4]``, each scan to the common frame.
        numbers: Numbers that choose the colours of scans without colours; None counts from 0.
        frame: See `flowmatch.io.move_cloud_file`.

    Returns:
        Names of what is not kept.
    """
    colours = [colour_of(k) for k in (range(len(scans)) if numbers is None else numbers)]
    return merge_cloud_files(scans, path, motions, colours=colours, frame=frame)


def summarize_registration(result: Registration) -> dict[str, Any]:
    """Return a registration as a dictionary for JSON, without its points."""
    return {
        "motion": result.motion.tolist(),
        "scale": result.scale,
        "scale_error": result.scale_error,
        "trusted": result.trusted,
        "reason": result.reason,
        "correspondences": len(result.inliers),
        "inliers": int(result.inliers.sum()),
        "overlap": result.overlap,
        "support": result.support,
        "slip_eigenvalue": result.slip_eigenvalue,
        "rmse": _number_or_none(result.rmse),
        "voxel": result.voxel,
    }


def summarize_multiway(result: MultiwayRegistration, names: Sequence[str]) -> dict[str, Any]:
    """Return a registration of several scans as a dictionary for JSON.

    Args:
        result: The registration.
        names: Names of the scans, such as their paths.
    """
    return {
        "trusted": result.trusted,
        "anchor": names[result.anchor],
        "voxel": result.voxel,
        "scans": [
            {"scan": name, "motion": motion.tolist() if placed else None}
            for name, motion, placed in zip(names, result.motions, result.placed, strict=True)
        ],
        "edges": [
            {
                "source": names[edge.source],
                "target": names[edge.target],
                "used": edge.used,
                "error": _number_or_none(edge.error),
                **summarize_registration(edge.registration),
            }
            for edge in result.edges
        ],
    }


def _number_or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
