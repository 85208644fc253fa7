"""Ctrl-C between steps, never within one."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def whole_step() -> Iterator[None]:
    """Put a first Ctrl-C off to the end of what is done within; a second one does not wait.

    Where the program has its own way with Ctrl-C, and in other threads, nothing is put off.

    Raises:
        KeyboardInterrupt: It came.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = False

    def put_off(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    try:
        signal.signal(signal.SIGINT, put_off)
    except ValueError:  # not the main thread, which alone is interrupted
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt
