"""Silence for the C libraries below OpenCV, which report errors on stderr themselves."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from flowmatch._opencv import cv2

_lock = threading.Lock()
_depth = 0
_saved = -1
_opencv_lock = threading.Lock()  # the level of OpenCV's messages is that of the process


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Discard what the process writes to file descriptor 2 during the block.

    libpng, libjpeg and FFmpeg print there, in lines of their own, what flowmatch reports as an
    exception. Blocks may be nested and may overlap in several threads; keep them short, because
    other threads' messages are lost as well.
    """
    global _depth, _saved
    with _lock:
        if _depth == 0:
            _saved = _redirect()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0 and _saved >= 0:
                os.dup2(_saved, 2)
                os.close(_saved)


@contextmanager
def opencv_errors() -> Iterator[list[str]]:
    """Collect the errors that OpenCV reports on stderr during the block, but not to its caller.

    One thread at a time; others that are within `quiet_stderr` have OpenCV's messages of that time
    in the list as well.

    Yields:
        A list that holds the lines after the block; it stays empty if stderr cannot be redirected.
    """
    lines: list[str] = []
    logging = cv2.utils.logging
    with _opencv_lock, quiet_stderr(), tempfile.TemporaryFile() as file:
        level = logging.getLogLevel()
        nowhere = -1
        with suppress(OSError):
            nowhere = os.dup(2)
            os.dup2(file.fileno(), 2)
        logging.setLogLevel(logging.LOG_LEVEL_ERROR)
        try:
            yield lines
        finally:
            logging.setLogLevel(level)
            if nowhere >= 0:
                os.dup2(nowhere, 2)
                os.close(nowhere)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def _redirect() -> int:
    """Connect descriptor 2 to nothing; return a copy of the old one, -1 if it is closed."""
    try:
        saved = os.dup(2)
    except OSError:
        return -1
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    return saved
