"""Threads of OpenCV during training."""

from collections.abc import Iterator
from contextlib import contextmanager

from flowmatch._opencv import cv2


@contextmanager
def single_opencv_thread() -> Iterator[None]:
    """Run OpenCV in one thread within a block, also in processes that are forked in it.

    Training renders samples in several processes; threads within each would compete with them.

    Example:
        >>> with single_opencv_thread():
        ...     cv2.getNumThreads()
        1
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
