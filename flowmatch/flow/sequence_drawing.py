"""Colour-coded flow of a clip, as a video or as pictures."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from flowmatch.draw import flow_to_image, side_by_side
from flowmatch.flow.sequence import CONFIDENCE
from flowmatch.io.confidence import read_confidence
from flowmatch.io.flow import read_flow
from flowmatch.io.image import write_image
from flowmatch.io.video import Frames
from flowmatch.io.video_writer import VideoWriter
from flowmatch.progress import ProgressCallback


def draw_sequence(
    frames: Frames,
    folder: Path,
    suffix: str,
    *,
    video: Path | None = None,
    pictures: Path | None = None,
    max_flow: float | None = None,
    confidence: bool = False,
    progress: ProgressCallback | None = None,
) -> float:
    """Draw the flows that `write_sequence` wrote: as a video beside the frames, or as pictures.

    Args:
        frames: The frames of the flows.
        folder: Folder of the flows.
        suffix: Format of the flows.
        video: File to write, each frame beside its flow.
        pictures: Folder for one coloured PNG for each flow.
        max_flow: Motion of full colour, in pixels; None takes the 99th percentile of all flows,
            one scale for the whole clip, so that the colours do not flicker.
        confidence: Fade the colours to gray where the confidence that was written is low.
        progress: Called after each flow, with the stage ``"drawing"``.

    Returns:
        The motion of full colour, in pixels.
    """
    files = {int(f.stem): f for f in sorted(folder.glob(f"*{suffix}")) if f.stem.isdecimal()}
    scale = common_scale(files.values()) if max_flow is None else max_flow
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writer = video and stack.enter_context(_video_writer(video, frames))
        frames_of_flows = ((files[n], frame) for n, frame in frames.numbered() if n in files)
        for done, (file, frame) in enumerate(frames_of_flows, 1):
            sure = read_confidence(folder / f"{file.stem}{CONFIDENCE}") if confidence else None
            colours = flow_to_image(read_flow(file), scale, confidence=sure)
            if pictures is not None:
                write_image(pictures / f"{file.stem}.png", colours)
            if writer:
                writer.write(side_by_side(frame, colours))
            if progress:
                progress("drawing", done, len(files))
    return scale


def check_video(frames: Frames, video: Path) -> None:
    """Raise an error, before flows are computed, if their video could not be written.

    Raises:
        ValueError: A frame beside its flow is too large for the format, or no frame can be read.
    """
    frame = next(iter(frames))
    height, width = side_by_side(frame, frame).shape[:2]
    _video_writer(video, frames).check_size(height, width)


def _video_writer(video: Path, frames: Frames) -> VideoWriter:
    return VideoWriter(video, min(max(frames.rate or 25.0, 0.01), 1000.0))  # what it takes


# Edges of the bins in which motions are counted: the pixels of a whole clip do not fit in memory.
_BINS = np.concatenate([[0.0], np.geomspace(0.01, 1e5, 4000)])


def common_scale(files: Iterable[Path]) -> float:
    """Return the 99th percentile of the motion of all flows, at least one pixel."""
    counts = np.zeros(len(_BINS) - 1, np.int64)
    for file in files:
        flow = read_flow(file)[::4, ::4]
        counts += np.histogram(np.hypot(flow[..., 0], flow[..., 1]), _BINS)[0]
    if not counts.any():
        return 1.0
    below = np.cumsum(counts) >= 0.99 * counts.sum()
    return float(max(1.0, _BINS[1 + int(np.argmax(below))]))
