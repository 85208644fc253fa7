"""Results of registrations as clouds and as JSON-ready summaries."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from flowmatch.geometry import transform_points
from flowmatch.io import write_cloud
from flowmatch.registration.draw import colour_of
from flowmatch.registration.graph import MultiwayRegistration
from flowmatch.registration.register import Registration


def write_moved(
    path: str | Path,
    scans: Sequence[ArrayLike],
    motions: ArrayLike,
    *,
    colours: Sequence[int] | None = None,
) -> None:
    """Write scans, moved into one frame, as one cloud.

    Args:
        path: File to write.
        scans: ``[N, 3]`` each, metres.
        motions: ``[S, 4, 4]``, each scan to the common frame.
        colours: Numbers that choose the scans' colours; None writes points without colour. Only
            ``.ply`` files keep colours.
    """
    clouds = [
        transform_points(motion, scan)
        for motion, scan in zip(np.asarray(motions), scans, strict=True)
    ]
    points = np.concatenate(clouds)
    # Within a kilometre of the origin float32 is finer than a tenth of a millimetre.
    if np.abs(points).max() < 1000:
        points = points.astype(np.float32)
    paint = None
    if colours is not None and Path(path).suffix.lower() == ".ply":
        shades = np.array([colour_of(k) for k in colours], np.uint8)
        paint = np.repeat(shades, [len(cloud) for cloud in clouds], axis=0)
    write_cloud(path, points, paint)


def summarize_registration(result: Registration) -> dict[str, Any]:
    """Return a registration as a dictionary for JSON, without its points."""
    return {
        "motion": result.motion.tolist(),
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
