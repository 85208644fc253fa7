"""Tracks drawn into the frames of a clip."""

import colorsys
from pathlib import Path

import numpy as np

from flowmatch._opencv import cv2
from flowmatch.imaging import Image
from flowmatch.io.video import Frames
from flowmatch.io.video_writer import VideoWriter
from flowmatch.progress import ProgressCallback
from flowmatch.tracking.box_tracks import BoxTracks
from flowmatch.tracking.point_tracks import PointTracks

_GOLDEN = 0.618034  # neighbouring numbers get colours that are far apart
_TRAIL = 12  # frames
_SHIFT = 4  # fractional bits of OpenCV's coordinates


def draw_box_tracks(frame: Image, tracks: BoxTracks, row: int) -> Image:
    """Draw the boxes of one frame; boxes of lost objects are thin and gray.

    Args:
        frame: The frame, RGB ``[H, W, 3]``.
        tracks: Tracks of boxes.
        row: Row of the frame in the tracks.

    Returns:
        A new picture.

    Example:
        >>> from flowmatch.tracking import track_boxes
        >>> clip = [np.zeros((60, 80, 3), np.uint8)]
        >>> int(draw_box_tracks(clip[0], track_boxes(clip, (20, 20, 16, 24)), 0).max()) > 200
        True
    """
    picture = frame.copy()
    thickness = max(1, round(min(frame.shape[:2]) / 300))
    for k, (x, y, width, height) in enumerate(tracks.boxes[row].tolist()):
        lost = bool(tracks.lost[row, k])
        colour = (128, 128, 128) if lost else track_colour(k)
        corners = (x, y), (x + width - 1, y + height - 1)
        first, last = (_fixed(corner) for corner in corners)
        cv2.rectangle(picture, first, last, colour, 1 if lost else thickness, cv2.LINE_AA, _SHIFT)
    return picture


def draw_point_tracks(frame: Image, tracks: PointTracks, row: int) -> Image:
    """Draw the visible points of one frame, with trails of their last 12 positions.

    Args:
        frame: The frame, RGB ``[H, W, 3]``.
        tracks: Tracks of points.
        row: Row of the frame in the tracks.

    Returns:
        A new picture.

    Example:
        >>> tracks = PointTracks(np.array([0]), np.array([[(3.0, 4)]]), np.array([[True]]))
        >>> int(draw_point_tracks(np.zeros((9, 9, 3), np.uint8), tracks, 0).max()) > 200
        True
    """
    picture = frame.copy()
    radius = max(1.0, min(frame.shape[:2]) / 200)
    start = max(0, row - _TRAIL)
    for k in np.flatnonzero(tracks.visible[row]).tolist():
        colour = track_colour(k)
        for t in range(start, row):
            if tracks.visible[t, k] and tracks.visible[t + 1, k]:
                first, last = (_fixed(tracks.points[i, k].tolist()) for i in (t, t + 1))
                cv2.line(picture, first, last, colour, 1, cv2.LINE_AA, _SHIFT)
        centre = _fixed(tracks.points[row, k].tolist())
        cv2.circle(picture, centre, round(radius * 2**_SHIFT), colour, -1, cv2.LINE_AA, _SHIFT)
    return picture


def track_colour(number: int) -> tuple[int, int, int]:
    """Return the colour (red, green, blue) of a track, 0 to 255.

    Example:
        >>> track_colour(0)
        (255, 76, 76)
    """
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.7, 1.0)
    return int(255 * red), int(255 * green), int(255 * blue)


def write_tracks_video(
    frames: Frames,
    tracks: BoxTracks | PointTracks,
    path: Path,
    progress: ProgressCallback | None = None,
) -> None:
    """Write a video of the frames with the tracks drawn into them.

    Args:
        frames: The clip that was tracked; it is read again.
        tracks: Tracks of boxes or of points.
        path: File to write, ``.mp4``, ``.avi`` or ``.webm``.
        progress: Called after each frame, with the stage ``"drawing"``.
    """
    rows = {int(number): row for row, number in enumerate(tracks.frames)}
    rate = min(max(frames.rate or 25.0, 0.01), 1000.0)  # what VideoWriter takes
    with VideoWriter(path, rate) as video:
        for number, frame in frames.numbered():
            if number not in rows:
                continue
            row = rows[number]
            if isinstance(tracks, BoxTracks):
                video.write(draw_box_tracks(frame, tracks, row))
            else:
                video.write(draw_point_tracks(frame, tracks, row))
            if progress is not None:
                progress("drawing", row + 1, len(rows))


def _fixed(point: tuple[float, float] | list[float]) -> tuple[int, int]:
    """Return a point in OpenCV's fixed-point numbers."""
    return round(point[0] * 2**_SHIFT), round(point[1] * 2**_SHIFT)
