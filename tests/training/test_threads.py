"""Threads of OpenCV during training."""

from flowmatch._opencv import cv2
from flowmatch.training import single_opencv_thread


def test_one_thread_in_the_block_and_as_many_as_before_after_it():
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(2)
        with single_opencv_thread():
            assert cv2.getNumThreads() == 1
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(threads)
