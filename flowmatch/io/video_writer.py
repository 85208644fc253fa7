"""Write frames to a video file, which appears only when it is complete."""

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._container import stated_size
from flowmatch.io._files import (
    FilePath,
    entry_for_suffix,
    ffmpeg_name,
    optional_module,
    replace_when_done,
    size_in_words,
)


class _Codec(NamedTuple):
    name: str
    encoder: str  # FFmpeg's
    pixels: str
    options: dict[str, str]


_CODECS = {
    # Without B-frames: with them, x264's lookahead reads memory that it has not set, and the same
    # frames give other bytes.
    ".mp4": _Codec("H.264", "libx264", "yuv420p", {"crf": "18", "bf": "0"}),
    ".avi": _Codec("Motion JPEG", "mjpeg", "yuvj420p", {"qmin": "1", "qmax": "2"}),
    ".webm": _Codec(
        "VP9",
        "libvpx-vp9",
        "yuv420p",
        {"crf": "20", "b": "0", "deadline": "realtime", "cpu-used": "6"},
    ),
}
VIDEO_SUFFIXES = tuple(_CODECS)


class VideoWriter:
    """Context manager that writes frames to a video file.

    The file gets its name when the block ends without an exception and all frames are in it, and
    is deleted otherwise.
    The same frames give the same bytes.
    Sides of odd length are extended by repeating the edge: colour is stored at half resolution.

    Args:
        path: File to write, ``.mp4`` (H.264), ``.avi`` (Motion JPEG) or ``.webm`` (VP9); its
            folder must exist.
        rate: Frames per second, 0.01 to 1000.

    Raises:
        ValueError: Unknown suffix, a rate out of range, frames of different sizes or too large
            for the format, or no frame at all.
        OSError: The file lacks frames, as on a full disk.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "clip.avi"
        >>> with VideoWriter(path, rate=25) as video:
        ...     video.write(np.zeros((32, 48, 3), np.uint8))
    """

    def __init__(self, path: FilePath, rate: float) -> None:
        self.path = Path(path)
        self._codec = entry_for_suffix(self.path, _CODECS, "video")
        if not 0.01 <= rate <= 1000:
            raise ValueError(f"{path}: rate must be 0.01 to 1000 frames per second, got {rate}")
        self.rate = float(rate)
        self._encoder: _Encoder | None = None
        self._count = 0
        self._shape: tuple[int, ...] = ()
        self._temporary: Path | None = None
        self._closing = ExitStack()

    def check_size(self, height: int, width: int) -> None:
        """Raise an error if the format holds no frames of this size; nothing is written.

        Raises:
            ValueError: The encoder refuses the size.

        Example:
            >>> VideoWriter("wide.mp4", rate=25).check_size(32, 20_000)
            Traceback (most recent call last):
            ...
            ValueError: wide.mp4: H.264 holds no frames of 20000 x 32 pixels at 25 frames per second
        """
        _Encoder(self, io.BytesIO(), height + height % 2, width + width % 2).close()

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
            height, width = (side + side % 2 for side in frame.shape[:2])
            self._encoder = _Encoder(self, self._temporary, height, width)
            self._closing.callback(self._encoder.close)
        if frame.shape != self._shape:
            raise ValueError(
                f"{self.path}: frame must be {size_in_words(self._shape)} pixels like the first, "
                f"got {size_in_words(frame.shape)}"
            )
        height, width, _ = frame.shape
        self._encoder.write(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge"))
        self._count += 1

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
    av = optional_module("av", "counting frames")
    try:
        with av.open(ffmpeg_name(path)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
    except (av.error.FFmpegError, IndexError):
        return 0
    return sum(not packet.is_corrupt for packet in packets)


class _Encoder:
    """An open video file; its errors are those of Python."""

    def __init__(
        self, video: VideoWriter, target: Path | io.BytesIO, height: int, width: int
    ) -> None:
        self.av = optional_module("av", "writing videos")
        self.path, codec = video.path, video._codec
        # Television needs no finer rate than 30000/1001, and encoders reject large terms.
        exact = Fraction(video.rate).limit_denominator(1001)
        file = ffmpeg_name(target) if isinstance(target, Path) else target
        with self._errors("the beginning of the video"):
            # Bit-exact: Matroska would number its tracks at random.
            self.container = self.av.open(
                file,
                "w",
                format=video.path.suffix.lower()[1:],
                container_options={"fflags": "+bitexact"},
            )
        try:
            self.stream = self.container.add_stream(
                codec.encoder, rate=exact, options=codec.options
            )
            self.stream.width, self.stream.height = width, height
            self.stream.pix_fmt = codec.pixels
            # The default matrix of libswscale; without the tag, players guess it from the size.
            colours = self.av.video.reformatter.Colorspace.ITU601
            self.stream.codec_context.colorspace = colours
            self.stream.codec_context.open(strict=False)
        except self.av.error.FFmpegError as error:
            raise ValueError(
                f"{video.path}: {codec.name} holds no frames of {width} x {height} pixels at "
                f"{video.rate:g} frames per second"
            ) from error

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
            message = f"{self.path}: FFmpeg cannot write {part}: {error.strerror}"
            raise OSError(error.errno, message) from error
