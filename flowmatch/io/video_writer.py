"""Write frames to a video file, which appears only when it is complete."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.io._container import stated_size
from flowmatch.io._files import (
    FilePath,
    entry_for_suffix,
    ffmpeg_name,
    optional_module,
    replace_when_done,
    size_in_words,
)
from flowmatch.io._quiet import quiet_stderr


class VideoWriter:
    """Context manager that writes frames to a video file.

    The file gets its name when the block ends without an exception and all frames are in it, and
    is deleted otherwise.
    Sides of odd length are extended by repeating the edge: colour is stored at half resolution.

    Args:
        path: File to write, ``.mp4``, ``.avi`` (Motion JPEG) or ``.webm`` (VP9); its folder must
            exist.
        rate: Frames per second, 0.01 to 1000.
        codec: Codec of an ``.mp4``: ``"h264"`` (needs the package av) or ``"mp4v"``; ``"auto"``
            is h264 if av is installed.

    Raises:
        ValueError: Unknown suffix, a codec of another suffix, a rate out of range, frames of
            different sizes, or no frame at all.
        OSError: The encoder cannot be opened, or the file lacks frames, as on a full disk.
        ImportError: `codec` is ``"h264"`` and av is not installed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "clip.avi"
        >>> with VideoWriter(path, rate=25) as video:
        ...     video.write(np.zeros((32, 48, 3), np.uint8))
    """

    def __init__(self, path: FilePath, rate: float, *, codec: str = "auto") -> None:
        self.path = Path(path)
        codecs = entry_for_suffix(self.path, _CODECS, "video")
        if codec not in ("auto", *codecs):
            raise ValueError(f"{path}: codec must be one of {('auto', *codecs)}, got {codec!r}")
        if not 0.01 <= rate <= 1000:
            raise ValueError(f"{path}: rate must be 0.01 to 1000 frames per second, got {rate}")
        self.rate, self.codec = float(rate), codec
        self._encoder: _H264 | _OpenCV | None = None
        self._count = 0
        self._shape: tuple[int, ...] = ()
        self._temporary: Path | None = None
        self._closing = ExitStack()

    def __enter__(self) -> "VideoWriter":
        self._temporary = self._closing.enter_context(replace_when_done(self.path))
        self._closing.push(self._check_whole)
        self._encoder, self._count = None, 0
        return self

    def __exit__(self, *error: Any) -> None:
        self._closing.__exit__(*error)
        self._temporary = None

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append a frame, RGB uint8 ``[H, W, 3]``, of the same size as the first."""
        if self._temporary is None:
            raise ValueError(f"{self.path}: frames are written inside `with VideoWriter(...)`")
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
            raise ValueError(
                f"{self.path}: frame must be uint8 [H, W, 3], got {frame.dtype} {list(frame.shape)}"
            )
        if self._encoder is None:
            self._shape = frame.shape
            self._encoder = self._open_encoder(self._temporary)
            self._closing.callback(self._encoder.close)
        if frame.shape != self._shape:
            raise ValueError(
                f"{self.path}: frame must be {size_in_words(self._shape)} pixels like the first, "
                f"got {size_in_words(frame.shape)}"
            )
        height, width, _ = frame.shape
        self._encoder.write(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge"))
        self._count += 1

    def _open_encoder(self, temporary: Path) -> "_H264 | _OpenCV":
        height, width = (side + side % 2 for side in self._shape[:2])
        codecs = _CODECS[self.path.suffix.lower()] if self.codec == "auto" else (self.codec,)
        if codecs[0] == "h264":
            try:
                return _H264(temporary, self.rate, height, width)
            except ImportError:
                if self.codec == "h264":
                    raise
        return _OpenCV(temporary, self.rate, height, width, _FOURCC[codecs[-1]])

    def _check_whole(self, kind: Any, *error: Any) -> None:
        if kind is not None:
            return
        if self._temporary is None or self._encoder is None:
            raise ValueError(f"{self.path}: no frame was written")
        count = _count_frames(self._temporary)
        if count != self._count:
            raise OSError(
                f"{self.path} cannot be written: {count} of {self._count} frames are in the file; "
                "is the disk full?"
            )
        if stated_size(self._temporary) != self._temporary.stat().st_size:
            raise OSError(f"{self.path} cannot be written: its end is missing; is the disk full?")


def _count_frames(path: Path) -> int:
    """Return the number of whole frames in a file; encoders do not report all errors."""
    if not path.exists() or path.stat().st_size == 0:
        return 0
    try:
        av = optional_module("av", "counting frames")
    except ImportError:
        return _count_by_opencv(path)
    try:
        with av.open(ffmpeg_name(path)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
    except (av.error.FFmpegError, IndexError):
        return 0
    return sum(not packet.is_corrupt for packet in packets)


def _count_by_opencv(path: Path) -> int:
    with quiet_stderr():
        capture = cv2.VideoCapture(ffmpeg_name(path))
        count = 0
        while capture.grab():
            count += 1
        capture.release()
    return count


class _H264:
    """Encoder of H.264, by PyAV."""

    def __init__(self, path: Path, rate: float, height: int, width: int) -> None:
        self.av = optional_module("av", "writing H.264")
        # Television needs no finer rate than 30000/1001, and encoders reject large terms.
        exact = Fraction(rate).limit_denominator(1001)
        with self._errors(f"H.264 video of {width} x {height} pixels"):
            self.container = self.av.open(ffmpeg_name(path), "w", format="mp4")
            self.stream = self.container.add_stream("libx264", rate=exact, options={"crf": "18"})
            self.stream.width, self.stream.height = width, height
            self.stream.pix_fmt = "yuv420p"
            # The default matrix of libswscale; without the tag, players guess it from the size.
            colours = self.av.video.reformatter.Colorspace.ITU601
            self.stream.codec_context.colorspace = colours
            self.stream.codec_context.open(strict=False)

    def write(self, frame: NDArray[np.uint8]) -> None:
        with self._errors("a frame"):
            picture = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            self.container.mux(self.stream.encode(picture))

    def close(self) -> None:
        with self._errors("the end of the video"):
            try:
                self.container.mux(self.stream.encode())
            finally:
                self.container.close()

    @contextmanager
    def _errors(self, part: str) -> Iterator[None]:
        """Turn FFmpeg's errors, of many types, into OSError."""
        try:
            yield
        except self.av.error.FFmpegError as error:
            message = f"FFmpeg cannot write {part}: {error.strerror}"
            raise OSError(error.errno, message) from error


class _OpenCV:
    """Encoder of the codecs in OpenCV's wheels."""

    def __init__(self, path: Path, rate: float, height: int, width: int, fourcc: str) -> None:
        code = cv2.VideoWriter.fourcc(*fourcc)
        with quiet_stderr():
            self.writer = cv2.VideoWriter(ffmpeg_name(path), code, rate, (width, height))
        if not self.writer.isOpened():
            raise OSError(f"OpenCV cannot write {fourcc} video of {width} x {height} pixels")

    def write(self, frame: NDArray[np.uint8]) -> None:
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self.writer.release()


# Codecs by suffix, best first; OpenCV's wheels have no H.264 encoder.
_CODECS = {".mp4": ("h264", "mp4v"), ".avi": ("mjpg",), ".webm": ("vp9",)}
VIDEO_SUFFIXES = tuple(_CODECS)
_FOURCC = {"mp4v": "mp4v", "mjpg": "MJPG", "vp9": "VP90"}
