"""Silence for C libraries: nothing passes during a block, everything after it."""

import os
import threading

from flowmatch.io._quiet import quiet_stderr


def test_descriptor_2_is_silent_and_restored(capfd):
    with quiet_stderr(), quiet_stderr():
        os.write(2, b"noise")
    os.write(2, b"message")
    assert capfd.readouterr().err == "message"


def test_blocks_of_two_threads_may_overlap(capfd):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with quiet_stderr():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with quiet_stderr():
        thread.start()
        inside.wait()
    os.write(2, b"noise")  # the other block goes on
    leave.set()
    thread.join()
    os.write(2, b"message")
    assert capfd.readouterr().err == "message"
