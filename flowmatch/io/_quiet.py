"""Silence for the C libraries below OpenCV, which report errors on stderr themselves."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_depth = 0
_saved = -1


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
