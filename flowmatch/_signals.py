"""SIGTERM as an exception, so that temporary files are removed, and no signal lost on the way."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_AGAIN = 0.02  # seconds after which a lost signal is sent again: the finaliser has ended by then


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Raise SystemExit(143) on SIGTERM, by which schedulers and containers end a job.

    Python prints and forgets what a signal raises while an object is finalised, Ctrl-C included;
    such a signal is sent again. Compiled modules that are just being imported turn what a signal
    raises into an ImportError; it is turned back.

    Handlers stay where the program has its own for SIGTERM, and outside the main thread.
    """
    main = threading.current_thread() is threading.main_thread()
    ours = main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    received: list[int] = []
    usual = sys.unraisablehook

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once: the removal itself must not be interrupted
        received.append(number)
        raise SystemExit(128 + number)

    def send_again(lost: "sys.UnraisableHookArgs") -> None:
        if lost.exc_type is SystemExit and received:
            number = received.pop()
            signal.signal(number, end)
        elif lost.exc_type is KeyboardInterrupt:
            number = signal.SIGINT
        else:
            usual(lost)
            return
        threading.Timer(_AGAIN, os.kill, (os.getpid(), number)).start()

    if ours:
        signal.signal(signal.SIGTERM, end)
        sys.unraisablehook = send_again
    try:
        yield
    except Exception as error:
        if received:
            raise SystemExit(128 + received[0]) from error
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
        raise
    finally:
        if ours:
            sys.unraisablehook = usual
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
