"""Read frames from videos, folders of pictures, cameras and streams, one by one."""

import hashlib
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import resize
from flowmatch.io._files import FilePath, existing_file, message_of, natural_order, size_in_words
from flowmatch.io._quiet import quiet_stderr
from flowmatch.io._video_file import FrameOrReason, VideoFile
from flowmatch.io._video_stream import VideoStream, is_url
from flowmatch.io._white import check_white, white_in_force
from flowmatch.io.image import (
    READ_SUFFIXES,
    count_pages,
    read_image,
    read_pages,
    warn_of_other_kinds,
)

_PAGES = 16  # decoded at once: an animation is decoded from its beginning each time
_MOST_PIXELS = 2**28  # in a frame after scaling: 32k x 8k


@dataclass(frozen=True)
class SkippedFrame:
    """A frame that could not be read or had another size; `str` gives one line.

    Attributes:
        index: Number of the frame in the source, from 0.
        reason: Reason why it was skipped.
    """

    index: int
    reason: str

    def __str__(self) -> str:
        return f"frame {self.index}: {self.reason}"


class Frames:
    """Frames of a video, one at a time; made by `read_frames`.

    Each iteration opens the source again and yields uint8 RGB ``[H, W, 3]``, all of one size.

    Attributes:
        name: Description of the source.
        files: Files of the source; empty for a camera or a stream.
        count: Expected number of frames, or None if it is unknown (a camera). For a video it is
            the container's claim, which may be wrong: for progress bars only.
        rate: Frames per second after `stride`, or None (pictures).
        skipped: Frames that could not be read, or had another size than the first; filled by the
            last iteration.
        identity: Text that `digest` is the hash of, for copies of a file elsewhere; None takes
            the name, the options, and the sizes and times of the files.
    """

    def __init__(
        self, source: "_Pictures | _Pages | _Camera | VideoFile", chosen: slice, scale: float
    ) -> None:
        self._source, self._chosen, self._scale = source, chosen, scale
        self.name, self.files = source.name, source.files
        self.count = None if source.total is None else len(range(source.total)[chosen])
        self.rate = None if source.rate is None else source.rate / chosen.step
        self.skipped: list[SkippedFrame] = []
        self.identity: str | None = None

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (frame for _, frame in self.numbered())

    def numbered(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield each frame with its index among the chosen ones; a skipped frame leaves a gap."""
        self.skipped.clear()
        first: tuple[int, ...] = ()
        for index, frame in self._source.frames(self._chosen):
            if isinstance(frame, str):
                self.skipped.append(SkippedFrame(index, frame))
            elif first and frame.shape != first:
                sizes = size_in_words(frame.shape), size_in_words(first)
                reason = "{} pixels, the first frame has {}".format(*sizes)
                self.skipped.append(SkippedFrame(index, reason))
            else:
                first = frame.shape
                yield (index - self._chosen.start) // self._chosen.step, self._scaled(frame)
        if not first:
            end = f"it ends before frame {self._chosen.start}"
            cause = str(self.skipped[0]) if self.skipped else end
            raise ValueError(f"no frame of {self._source.name} could be read: {cause}")

    def digest(self) -> str:
        """Return a short hash that changes with the files and the options they are read with."""
        white = f" white {self._source.white}" if self._source.white else ""
        if self.identity is not None:
            return digest_of_identity(self.identity)
        state = hashlib.sha256(
            f"{self.name} {self._chosen} {self._scale}{white}".encode(errors="surrogateescape")
        )
        for file in self.files:
            if file.exists():
                status = file.stat()
                state.update(
                    f"{file.resolve()} {status.st_size} {status.st_mtime_ns}".encode(
                        errors="surrogateescape"
                    )
                )
        return state.hexdigest()[:16]

    def _scaled(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._scale == 1:
            return frame
        height, width = (max(1, round(self._scale * side)) for side in frame.shape[:2])
        if height * width > _MOST_PIXELS:
            raise ValueError(f"scale {self._scale:g} makes frames of {width} x {height} pixels")
        return resize(
            frame, (width, height), cv2.INTER_AREA if self._scale < 1 else cv2.INTER_CUBIC
        )


def digest_of_identity(identity: str) -> str:
    """Return `Frames.digest` of frames with an identity."""
    return hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:16]


def read_frames(
    source: FilePath | int | Sequence[FilePath],
    *,
    start: int = 0,
    stop: int | None = None,
    stride: int = 1,
    scale: float = 1.0,
    white: int | None = None,
    reconnect: int = 0,
) -> Frames:
    """Read the frames of a video, a folder of pictures, a camera or a stream, lazily.

    A damaged frame does not end a clip: it is skipped and noted in `Frames.skipped`.

    Args:
        source: A video file, a TIFF of several pages, an animated WebP or PNG; a folder of
            pictures, in natural order (``frame2`` before ``frame10``); a pattern such as
            ``"dir/*.png"``; a list of pictures, in its own order; a URL such as
            ``"rtsp://host/stream"``, as text; or the number of a camera.
        start: First frame to read, counted from 0.
        stop: Frame to stop before; None reads to the end.
        stride: Step between frames: 2 reads every second one.
        scale: Factor on width and height of each frame.
        white: Value of white in pictures of 16 bits, as in `read_image`; videos do not use it.
        reconnect: Number of attempts in a row, a second apart, to go on with a stream whose
            connection is lost. A stream of no known length is then also opened again when it
            ends. The frame after the gap forms no pair with the one before it.

    Returns:
        Iterable of uint8 RGB frames ``[H, W, 3]``. Iterating raises ValueError if no frame at all
        can be read.

    Raises:
        FileNotFoundError: The file does not exist, or nothing matches the pattern.
        ValueError: The source holds neither video nor pictures, or an argument is out of range.
        OSError: The camera or stream cannot be opened: within ten seconds, for a stream.

    Example:
        >>> import tempfile
        >>> from flowmatch.io import VideoWriter
        >>> folder = Path(tempfile.mkdtemp())
        >>> with VideoWriter(folder / "clip.avi", rate=25) as video:
        ...     for _ in range(4):
        ...         video.write(np.zeros((32, 48, 3), np.uint8))
        >>> frames = read_frames(folder / "clip.avi", stride=2)
        >>> frames.count, frames.rate, [frame.shape for frame in frames]
        (2, 12.5, [(32, 48, 3), (32, 48, 3)])
    """
    if start < 0 or stride < 1 or (stop is not None and stop <= start):
        raise ValueError(
            "expected 0 <= start < stop and stride >= 1, "
            f"got start={start}, stop={stop}, stride={stride}"
        )
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a positive number, got {scale}")
    if reconnect < 0:
        raise ValueError(f"reconnect must be 0 or more attempts, got {reconnect}")
    check_white(white)
    # Frames may be read in another thread, which does not see `white_level`.
    white = white_in_force() if white is None else white
    return Frames(_open(source, white, reconnect), slice(start, stop, stride), scale)


def _open(
    source: FilePath | int | Sequence[FilePath], white: int | None, reconnect: int
) -> "_Pictures | _Pages | _Camera | VideoFile":
    if isinstance(source, int):
        if not 0 <= source < 2**31:
            raise ValueError(f"the number of a camera is expected, got {source}")
        return _Camera(source)
    if isinstance(source, str) and is_url(source):
        return VideoStream(source, reconnect)
    if not isinstance(source, str | os.PathLike):
        return _Pictures([existing_file(path) for path in source], "the list of pictures", white)
    path = Path(source)
    if path.is_dir():
        files = _in_order(path.iterdir())
        warn_of_other_kinds(path, files)
        pictures = [file for file in files if file.suffix.lower() in READ_SUFFIXES]
        return _Pictures(pictures, f"folder {path}", white)
    folder, pattern = _split_pattern(path)
    if pattern:
        matching = _in_order(folder.glob(pattern))
        if not matching:
            raise FileNotFoundError(f"no file matches {path}")
        return _Pictures(matching, str(path), white)
    # OpenCV would take frame1.png for a numbered sequence, and read frame2.png next. Animated GIFs
    # are left to FFmpeg, which knows their rate.
    if existing_file(path).suffix.lower() in READ_SUFFIXES and path.suffix.lower() != ".gif":
        pages = count_pages(path)
        return _Pages(path, pages, white) if pages > 1 else _Pictures([path], str(path), white)
    return VideoFile(path)


def _split_pattern(path: Path) -> tuple[Path, str]:
    """Return the part of a path that exists, and the pattern after it; "" if it is a plain path."""
    for folder in (path, *path.parents):
        if folder.exists():
            rest = str(path.relative_to(folder)) if folder != path else ""
            return folder, rest if re.search(r"[*?\[]", rest) else ""
    return path, ""


def _in_order(paths: Iterable[Path]) -> list[Path]:
    # macOS writes a hidden "._frame.png", which is not a picture, for each frame that it copies.
    # A link to nowhere is a frame that cannot be read (git-annex, DVC): it keeps its number.
    files = (path for path in paths if not path.is_dir() and not path.name.startswith("."))
    return sorted(files, key=natural_order)


def _retrieved(capture: cv2.VideoCapture) -> NDArray[np.uint8] | str:
    decoded, bgr = capture.retrieve()
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)) if decoded else "cannot be decoded"


class _Pictures:
    """A list of picture files."""

    rate = None

    def __init__(self, paths: list[Path], name: str, white: int | None) -> None:
        if not paths:
            raise ValueError(f"{name} holds no pictures ({', '.join(READ_SUFFIXES)})")
        self.name, self.files, self.white = name, tuple(paths), white
        self.total: int | None = len(paths)

    def frames(self, chosen: slice) -> Iterator[FrameOrReason]:
        for index in range(len(self.files))[chosen]:
            try:
                yield index, read_image(self.files[index], white=self.white)
            except (ValueError, OSError) as error:
                yield index, message_of(error)


class _Pages:
    """The pages of a TIFF, or the pictures of an animated WebP or PNG."""

    rate = None

    def __init__(self, path: Path, total: int, white: int | None) -> None:
        self.path, self.name, self.files, self.white = path, str(path), (path,), white
        self.total: int | None = total

    def frames(self, chosen: slice) -> Iterator[FrameOrReason]:
        indices = range(self.total or 0)[chosen]
        for start in range(0, len(indices), _PAGES):
            chunk = indices[start : start + _PAGES]
            try:
                pages = read_pages(self.path, chunk[0], chunk[-1] - chunk[0] + 1, self.white)
                yield from ((index, pages[index - chunk[0]]) for index in chunk)
            except ValueError:
                yield from map(self._one, chunk)

    def _one(self, index: int) -> FrameOrReason:
        try:
            return index, read_pages(self.path, index, 1, self.white)[0]
        except ValueError as error:
            return index, message_of(error)


class _Camera:
    """The number of a camera."""

    files: tuple[Path, ...] = ()
    white = None
    total = None

    def __init__(self, number: int) -> None:
        self.number, self.name = number, f"camera {number}"
        capture = self._capture()
        rate = capture.get(cv2.CAP_PROP_FPS)
        capture.release()
        self.rate = rate if math.isfinite(rate) and rate > 0 else None

    def _capture(self) -> cv2.VideoCapture:
        with quiet_stderr():
            capture = cv2.VideoCapture(self.number)
        if not capture.isOpened():
            raise OSError(f"{self.name} cannot be opened")
        return capture

    def frames(self, chosen: slice) -> Iterator[FrameOrReason]:
        capture = self._capture()
        try:
            for index in itertools.count() if chosen.stop is None else range(chosen.stop):
                if not capture.grab():
                    break
                if index >= chosen.start and (index - chosen.start) % chosen.step == 0:
                    yield index, _retrieved(capture)
        finally:
            capture.release()
