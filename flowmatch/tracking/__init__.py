"""Tracking of boxes and of points through a clip."""

from flowmatch.tracking.box_tracks import BoxTracks, track_boxes
from flowmatch.tracking.networks import MODELS, BoxRegression
from flowmatch.tracking.point_tracks import PointTracks, grid_points, track_points
from flowmatch.tracking.store import available, load, save_weights

__all__ = [
    "MODELS",
    "BoxRegression",
    "BoxTracks",
    "PointTracks",
    "available",
    "grid_points",
    "load",
    "save_weights",
    "track_boxes",
    "track_points",
]
