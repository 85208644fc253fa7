"""Videos, folders of pictures and cameras in, one frame after the other; videos out."""

import hashlib
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.io._files import (
    FilePath,
    entry_for_suffix,
    existing_file,
    natural_order,
    optional_module,
    replace_when_done,
)
from flowmatch.io.image import IMAGE_SUFFIXES, read_image

# A decoder may lose a whole group of pictures after one damaged key frame; x264's default group
# is 250 frames. After more failures than this the rest of the file is given up.
_LOST_IN_A_ROW = 300

_MOST_PIXELS = 2**28  # of a frame after scaling: 32k x 8k

# What a source yields: the frame's number in the source, and the frame or why there is none.
_FrameOrReason = tuple[int, NDArray[np.uint8] | str]


@dataclass(frozen=True)
class SkippedFrame:
    """A frame of the source that was not delivered, and why; `str` makes a line of it."""

    index: int
    reason: str

    def __str__(self) -> str:
        return f"frame {self.index}: {self.reason}"


class Frames:
    """Frames of a video, one at a time; made by `read_frames`.

    Each iteration opens the source again and yields uint8 RGB ``[H, W, 3]``, all of one size.

    Attributes:
        name: What is read, in words.
        files: The files it is read from; none for a camera.
        count: How many frames to expect, or None where nobody knows (a camera). For a video it is
            what the container claims, which may be wrong: for progress bars only.
        rate: Frames per second after `every`, or None (pictures).
        skipped: Frames that could not be read, or had another size than the first; filled by the
            last iteration.
    """

    def __init__(self, source: "_Pictures | _Video", chosen: slice, scale: float) -> None:
        self._source, self._chosen, self._scale = source, chosen, scale
        self.name, self.files = source.name, source.files
        self.count = None if source.total is None else len(range(source.total)[chosen])
        self.rate = None if source.rate is None else source.rate / chosen.step
        self.skipped: list[SkippedFrame] = []

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (frame for _, frame in self.numbered())

    def numbered(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield each frame with its place among the chosen ones: a skipped frame leaves a gap."""
        self.skipped.clear()
        first: tuple[int, ...] = ()
        for index, frame in self._source.frames(self._chosen):
            if isinstance(frame, str):
                self.skipped.append(SkippedFrame(index, frame))
            elif first and frame.shape != first:
                reason = f"{_size(frame.shape)} pixels, the first frame has {_size(first)}"
                self.skipped.append(SkippedFrame(index, reason))
            else:
                first = frame.shape
                yield (index - self._chosen.start) // self._chosen.step, self._scaled(frame)
        if not first:
            why = self.skipped[0] if self.skipped else f"it ends before {self._chosen.start}"
            raise ValueError(f"no frame of {self._source.name} could be read: {why}")

    def fingerprint(self) -> str:
        """Return a short word that changes with the files, the choice of frames and the scale."""
        found = hashlib.sha256(f"{self.name} {self._chosen} {self._scale}".encode())
        for file in self.files:
            state = file.stat()
            found.update(f"{file.resolve()} {state.st_size} {state.st_mtime_ns}".encode())
        return found.hexdigest()[:16]

    def _scaled(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._scale == 1:
            return frame
        height, width = (max(1, round(self._scale * side)) for side in frame.shape[:2])
        if height * width > _MOST_PIXELS:
            raise ValueError(f"scale {self._scale:g} makes frames of {width} x {height} pixels")
        how = cv2.INTER_AREA if self._scale < 1 else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(frame, (width, height), interpolation=how), np.uint8)


def read_frames(
    source: FilePath | int | Sequence[FilePath],
    *,
    start: int = 0,
    stop: int | None = None,
    every: int = 1,
    scale: float = 1.0,
) -> Frames:
    """Read the frames of a video, of a folder of pictures, or of a camera, lazily.

    One damaged frame does not end a clip: it is left out and noted in `Frames.skipped`.

    Args:
        source: A video file; a folder of pictures, taken in natural order (``frame2`` before
            ``frame10``); a pattern such as ``"dir/*.png"``; a list of pictures, in its own order;
            or the number of a camera.
        start: First frame to deliver, counted from 0.
        stop: Frame to stop before; None reads to the end.
        every: Deliver each `every`-th frame.
        scale: Factor on both sides of each frame.

    Returns:
        An iterable of uint8 RGB frames ``[H, W, 3]``. Iterating raises ValueError if not a single
        frame could be read.

    Raises:
        FileNotFoundError: There is no such file, or nothing matches the pattern.
        ValueError: The source holds neither video nor pictures, or an argument is out of range.
        OSError: The camera cannot be opened.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with VideoWriter(folder / "clip.avi", rate=25) as video:
        ...     for _ in range(4):
        ...         video.write(np.zeros((32, 48, 3), np.uint8))
        >>> frames = read_frames(folder / "clip.avi", every=2)
        >>> frames.count, frames.rate, [frame.shape for frame in frames]
        (2, 12.5, [(32, 48, 3), (32, 48, 3)])
    """
    if start < 0 or every < 1 or (stop is not None and stop <= start):
        came = f"start={start}, stop={stop}, every={every}"
        raise ValueError(f"expected 0 <= start < stop and every >= 1, got {came}")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a positive number, got {scale}")
    return Frames(_open(source), slice(start, stop, every), scale)


def _open(source: FilePath | int | Sequence[FilePath]) -> "_Pictures | _Video":
    if isinstance(source, int):
        if not 0 <= source < 2**31:
            raise ValueError(f"the number of a camera is expected, got {source}")
        return _Video(source)
    if not isinstance(source, str | os.PathLike):
        return _Pictures([existing_file(path) for path in source], "the list of pictures")
    path = Path(source)
    if path.is_dir():
        inside = (file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        return _Pictures(_in_order(inside), f"folder {path}")
    if not path.exists() and re.search(r"[*?\[]", str(path)):
        found = _in_order(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not found:
            raise FileNotFoundError(f"no file matches {path}")
        return _Pictures(found, str(path))
    if existing_file(path).suffix.lower() in IMAGE_SUFFIXES:
        # OpenCV would take frame1.png for a numbered sequence, and read frame2.png next.
        return _Pictures([path], str(path))
    return _Video(path)


def _in_order(paths: Iterable[Path]) -> list[Path]:
    # macOS leaves a hidden "._frame.png", which is no picture, beside each frame it copies.
    files = (path for path in paths if path.is_file() and not path.name.startswith("."))
    return sorted(files, key=natural_order)


def _retrieved(capture: cv2.VideoCapture) -> NDArray[np.uint8] | str:
    decoded, bgr = capture.retrieve()
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)) if decoded else "cannot be decoded"


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


class _Pictures:
    rate = None

    def __init__(self, paths: list[Path], name: str) -> None:
        if not paths:
            raise ValueError(f"{name} holds no pictures ({', '.join(IMAGE_SUFFIXES)})")
        self.name, self.files = name, tuple(paths)
        self.total: int | None = len(paths)

    def frames(self, chosen: slice) -> Iterator[_FrameOrReason]:
        for index in range(len(self.files))[chosen]:
            try:
                yield index, read_image(self.files[index])
            except (ValueError, OSError) as error:
                yield index, str(error)


class _Video:
    def __init__(self, source: Path | int) -> None:
        self.source = source
        self.files = () if isinstance(source, int) else (source,)
        self.name = f"camera {source}" if isinstance(source, int) else str(source)
        capture = self._capture()
        total, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
        capture.release()
        self.total = int(total) if total >= 1 else None
        self.rate = rate if math.isfinite(rate) and rate > 0 else None

    def _capture(self) -> cv2.VideoCapture:
        camera = isinstance(self.source, int)
        capture = cv2.VideoCapture(self.source if camera else str(self.source))
        if capture.isOpened():
            return capture
        if camera:
            raise OSError(f"{self.name} cannot be opened")
        raise ValueError(f"{self.name} is neither a video that OpenCV decodes nor pictures")

    def frames(self, chosen: slice) -> Iterator[_FrameOrReason]:
        capture = self._capture()
        claimed = self.total or 0
        failed: list[int] = []
        try:
            # Seeking lands on key frames in many formats, so frames before `start` are decoded.
            for index in itertools.count() if chosen.stop is None else range(chosen.stop):
                if not capture.grab():
                    failed.append(index)
                    # OpenCV does not tell a damaged frame from the end: believe the container's
                    # count only as far as to go on trying.
                    if index >= claimed or len(failed) > _LOST_IN_A_ROW:
                        break
                    continue
                yield from ((lost, "cannot be decoded") for lost in failed)
                failed.clear()
                if index >= chosen.start and (index - chosen.start) % chosen.step == 0:
                    yield index, _retrieved(capture)
        finally:
            capture.release()
        if failed and failed[0] < claimed:
            yield failed[0], f"nothing more can be decoded; the file claims {claimed} frames"


class VideoWriter:
    """Write frames to a video file, as a context manager.

    The file gets its name when the block ends without an exception, and is deleted otherwise.
    Sides of odd length are extended by repeating the edge: colour is stored at half resolution.

    Args:
        path: ``.mp4``, ``.avi`` (Motion JPEG) or ``.webm`` (VP9); the folder must exist.
        rate: Frames per second, 0.01 to 1000.
        codec: For ``.mp4``, ``"h264"`` (needs the package av) or ``"mp4v"``; ``"auto"`` takes the
            first where av is installed.

    Raises:
        ValueError: Unknown suffix, a codec that does not go with it, a rate out of range,
            frames of different sizes, or not a single frame.
        OSError: The encoder cannot be opened or wrote nothing.
        ImportError: ``codec="h264"``, and av is not installed.

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
        self._shape: tuple[int, ...] = ()
        self._beside: Path | None = None
        self._closing = ExitStack()

    def __enter__(self) -> "VideoWriter":
        self._beside = self._closing.enter_context(replace_when_done(self.path))
        self._closing.push(self._refuse_empty)
        self._encoder = None
        return self

    def __exit__(self, *error: Any) -> None:
        self._closing.__exit__(*error)
        self._beside = None

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append one frame, RGB uint8 ``[H, W, 3]``, of the same size as the first."""
        if self._beside is None:
            raise ValueError(f"{self.path}: frames are written inside `with VideoWriter(...)`")
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
            came = f"{frame.dtype} {list(frame.shape)}"
            raise ValueError(f"{self.path}: frame must be uint8 [H, W, 3], got {came}")
        if self._encoder is None:
            self._shape = frame.shape
            self._encoder = self._open_encoder(self._beside)
            self._closing.callback(self._encoder.close)
        if frame.shape != self._shape:
            sizes = f"{_size(self._shape)} pixels like the first, got {_size(frame.shape)}"
            raise ValueError(f"{self.path}: frame must be {sizes}")
        height, width, _ = frame.shape
        self._encoder.write(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge"))

    def _open_encoder(self, beside: Path) -> "_H264 | _OpenCV":
        height, width = (side + side % 2 for side in self._shape[:2])
        codecs = _CODECS[self.path.suffix.lower()] if self.codec == "auto" else (self.codec,)
        if codecs[0] == "h264":
            try:
                return _H264(beside, self.rate, height, width)
            except ImportError:
                if self.codec == "h264":
                    raise
        return _OpenCV(beside, self.rate, height, width, _FOURCC[codecs[-1]])

    def _refuse_empty(self, kind: Any, *error: Any) -> None:
        if kind is None and self._encoder is None:
            raise ValueError(f"{self.path}: no frame was written")


class _H264:
    def __init__(self, path: Path, rate: float, height: int, width: int) -> None:
        self.av = optional_module("av", "writing H.264")
        self.container = self.av.open(str(path), "w")
        # 30000/1001 is the finest that television needs, and encoders refuse large terms.
        exact = Fraction(rate).limit_denominator(1001)
        self.stream = self.container.add_stream("libx264", rate=exact, options={"crf": "18"})
        self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
        # The matrix that libswscale converts with by default; untagged, players guess by size.
        self.stream.codec_context.colorspace = self.av.video.reformatter.Colorspace.ITU601

    def write(self, frame: NDArray[np.uint8]) -> None:
        picture = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self.container.mux(self.stream.encode(picture))

    def close(self) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()


class _OpenCV:
    def __init__(self, path: Path, rate: float, height: int, width: int, fourcc: str) -> None:
        self.path, code = path, cv2.VideoWriter.fourcc(*fourcc)
        self.writer = cv2.VideoWriter(str(path), code, rate, (width, height))
        if not self.writer.isOpened():
            raise OSError(f"OpenCV cannot write {fourcc} video of {width} x {height} pixels")

    def write(self, frame: NDArray[np.uint8]) -> None:
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self.writer.release()
        # The writer reports nothing, not even a full disk.
        if not self.path.exists() or self.path.stat().st_size == 0:
            raise OSError("OpenCV wrote no video")


# Codecs by suffix, best first; OpenCV's wheels hold no H.264 encoder.
_CODECS = {".mp4": ("h264", "mp4v"), ".avi": ("mjpg",), ".webm": ("vp9",)}
_FOURCC = {"mp4v": "mp4v", "mjpg": "MJPG", "vp9": "VP90"}
