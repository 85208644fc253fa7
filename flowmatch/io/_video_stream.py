"""Frames of the URL of a stream, by PyAV: rtsp, http and whatever else FFmpeg reads."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowmatch.io._files import optional_module
from flowmatch.io._video_file import VideoFile

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")

OPEN_TIMEOUT = 10.0
"""Seconds within which a stream must begin."""
READ_TIMEOUT = 30.0
"""Seconds within which the next part of a stream must come."""
PAUSE = 1.0
"""Seconds between two attempts to connect."""


def is_url(text: str) -> bool:
    """Return whether a text is a URL, not the path of a file.

    Example:
        >>> is_url("rtsp://host/stream"), is_url("C:/clip.mp4"), is_url("12:30.mp4")
        (True, False, False)
    """
    return _URL.match(text) is not None


def without_password(url: str) -> str:
    """Return a URL whose password, if it has one, is replaced: names reach files and messages.

    Example:
        >>> without_password("rtsp://viewer:secret@host/stream")
        'rtsp://viewer:***@host/stream'
    """
    return _PASSWORD.sub(r"\1:***@", url)


class VideoStream(VideoFile):
    """A stream.

    Attributes:
        name: The URL, without a password.
        files: Empty.
        total: Number of frames that the container claims; None for a live stream.
        rate: Frames per second, or None.

    Raises:
        ImportError: PyAV is not installed.
        OSError: The stream does not begin within `OPEN_TIMEOUT`, or is no video.
    """

    def __init__(self, url: str, reconnect: int = 0) -> None:
        self.av = optional_module("av", "reading streams")
        self.url, self.reconnect, self.name = url, reconnect, without_password(url)
        self.path, self.files = Path(), ()
        # The first iteration takes this connection: some servers accept only one.
        self._connection: tuple[Any, Any] | None = self._connect()
        self._take_properties(*self._connection)

    def _connect(self) -> tuple[Any, Any]:
        options = {"rtsp_flags": "prefer_tcp"}
        if self.reconnect and self.url.lower().startswith("http"):
            # FFmpeg goes on at the byte where the connection was lost, if the server can do that.
            options |= {
                "reconnect": "1",
                "reconnect_on_network_error": "1",
                "reconnect_max_retries": str(self.reconnect),
            }
        began = time.monotonic()
        try:
            container = self.av.open(
                self.url,
                options=options,
                metadata_errors="replace",
                timeout=(OPEN_TIMEOUT, READ_TIMEOUT),
            )
        except (self.av.error.FFmpegError, ValueError) as error:
            is_late = time.monotonic() - began >= OPEN_TIMEOUT
            reason = f"no answer within {OPEN_TIMEOUT:g} s" if is_late else self._reason(error)
            raise OSError(f"{self.name} cannot be opened: {reason}") from error
        stream = container.streams.best("video")
        if stream is None:
            container.close()
            raise OSError(f"{self.name} cannot be opened: it has no frames")
        return container, stream

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        container, stream = self._connection or self._connect()
        self._connection = None
        with container:
            yield container, stream

    def _decoded(self) -> Iterator[Any]:
        failures = 0
        while True:
            last: Any = ""
            try:
                for last in super()._decoded():
                    failures = 0 if not isinstance(last, str) else failures
                    yield last
            except OSError:
                if failures == 0:
                    raise
            # A stream of known length ends; for all others the end is a lost connection.
            if self.total is not None or failures == self.reconnect:
                return
            if failures == 0 and not isinstance(last, str):
                yield "the connection was lost"  # no pair spans the gap
            failures += 1
            time.sleep(PAUSE)

    def _is_cut_off(self) -> bool:
        return False

    def _reason(self, error: Any) -> str:
        if isinstance(error, self.av.error.ExitError):
            return f"nothing came for {READ_TIMEOUT:g} s"
        return str(getattr(error, "strerror", None) or error)
