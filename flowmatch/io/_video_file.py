"""Frames of video files, by PyAV."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._container import stated_size
from flowmatch.io._files import ffmpeg_name, optional_module

# A frame's number in the source, and the frame or the reason why it is missing.
FrameOrReason = tuple[int, NDArray[np.uint8] | str]


class VideoFile:
    """A video file.

    Attributes:
        name: Description of the source.
        files: The file.
        total: Number of frames that the container claims, or None.
        rate: Frames per second, or None.
        white: None: the decoder scales all depths.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: The file is no video that FFmpeg decodes.
    """

    white = None

    def __init__(self, path: Path) -> None:
        self.av = optional_module("av", "reading videos")
        self.path, self.name = path, str(path)
        self.files: tuple[Path, ...] = (path,)
        with self._opened() as (container, stream):
            self._take_properties(container, stream)

    def _take_properties(self, container: Any, stream: Any) -> None:
        rate = stream.guessed_rate or stream.average_rate
        self.rate = float(rate) if rate else None
        self.total: int | None = stream.frames or None
        duration = container.duration or 0  # in microseconds
        if self.total is None and self.rate and duration > 0:
            self.total = max(1, round(duration * self.rate / 1e6))

    def frames(self, chosen: slice) -> Iterator[FrameOrReason]:
        """Yield the chosen frames; seeking lands on key frames, so all before are decoded."""
        index = -1
        for index, frame in enumerate(self._decoded()):
            if chosen.stop is not None and index >= chosen.stop:
                return
            if index >= chosen.start and (index - chosen.start) % chosen.step == 0:
                yield index, frame if isinstance(frame, str) else _upright(frame)
            elif isinstance(frame, str):
                yield index, frame
        if self._is_cut_off():
            size, actual = stated_size(self.path), self.path.stat().st_size
            claim = f" and claims {self.total} frames" if self.total else ""
            yield (
                index + 1,
                "cannot be decoded, nor can the rest: the file is cut off, it has "
                f"{actual} of {size} bytes{claim}",
            )

    def _is_cut_off(self) -> bool:
        return self.path.stat().st_size < (stated_size(self.path) or 0)

    def _decoded(self) -> Iterator[Any]:
        """Yield each frame in the order of showing, or the reason why it is missing."""
        with self._opened() as (container, stream):
            started = False
            failure = ""
            lost = 0
            for packet in self._packets(container, stream):
                if isinstance(packet, str):
                    failure = packet
                    continue
                try:
                    frames = stream.codec_context.decode(packet)
                except self.av.error.FFmpegError:
                    # Before the first key frame there is nothing to decode from.
                    started = started or packet is None or packet.is_keyframe
                    lost += started
                    continue
                started = started or bool(frames) or packet is None or packet.is_keyframe
                if frames:
                    yield from ["cannot be decoded"] * lost
                    lost = 0
                    yield from frames
            yield from ["cannot be decoded"] * lost
            if failure:
                yield failure

    def _packets(self, container: Any, stream: Any) -> Iterator[Any]:
        """Yield the packets of a stream that hold something, and None at the end."""
        cut_off = self._is_cut_off()
        try:
            for packet in container.demux(stream):
                # An empty packet is a repeated frame of an AVI, or the end.
                if packet.size and not (cut_off and packet.is_corrupt):
                    yield packet
        except self.av.error.FFmpegError as error:
            if not cut_off:
                yield f"cannot be read, nor can the rest: {self._reason(error)}"
        yield None

    def _reason(self, error: Any) -> str:
        return str(error.strerror)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        try:
            container = self.av.open(ffmpeg_name(self.path), metadata_errors="replace")
        except self.av.error.FFmpegError as error:
            raise ValueError(
                f"{self.path} is neither a video that FFmpeg decodes nor pictures: {error.strerror}"
            ) from error
        with container:
            stream = container.streams.best("video")
            if stream is None:
                raise ValueError(f"{self.path} is neither a video nor pictures: it has no frames")
            if stream.codec_context is None:
                raise ValueError(f"{self.path}: FFmpeg has no decoder for its frames")
            yield container, stream


def _upright(frame: Any) -> NDArray[np.uint8]:
    """Return a frame as RGB, turned as its rotation flag says."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
