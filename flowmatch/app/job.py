"""A task in a process of its own, which can be stopped at any moment and take nothing with it."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from flowmatch.app.tasks import TaskResult
from flowmatch.devices import is_out_of_memory

_INTERVAL = 0.1
"""Shortest time between two messages about the same stage, seconds."""
# Processes are forked from a server that has imported the tasks already, and has no threads.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["flowmatch.app.tasks"])

Task = Callable[..., TaskResult]


class Progress(NamedTuple):
    """How far a task is.

    Attributes:
        stage: What is being done.
        done: Number of items that are done.
        total: Number of items in all; None if it is unknown.
    """

    stage: str
    done: int
    total: int | None


class _Failure(NamedTuple):
    message: str


class Job:
    """A task that runs in another process.

    Args:
        task: Function that takes `progress` and the arguments, and returns a `TaskResult`.
        arguments: Its keyword arguments; they are pickled, as is the result.

    Example:
        >>> from flowmatch.app.tasks.flow import flow_of_pictures
        >>> job = Job(flow_of_pictures, {})  # doctest: +SKIP
        >>> for progress in job.updates():  # doctest: +SKIP
        ...     print(progress)
        >>> job.result.summary  # doctest: +SKIP
    """

    def __init__(self, task: Task, arguments: dict[str, Any]) -> None:
        self.result: TaskResult | None = None
        self._progress = Progress("starting", 0, None)
        self._messages, sending = _PROCESSES.Pipe(duplex=False)
        self._process = _PROCESSES.Process(
            target=_work, args=(sending, task, arguments), daemon=True
        )
        self._process.start()
        sending.close()

    def updates(self, interval: float = 0.4) -> Iterator[Progress]:
        """Yield how far the task is until it is done, then set `result`.

        Args:
            interval: Time between two updates at most, seconds.

        Raises:
            ValueError: The task refused its arguments or failed; the message is its own.
            RuntimeError: The process ended without a result.
        """
        while self.result is None:
            yield self._progress
            deadline = time.monotonic() + interval
            while self.result is None and self._messages.poll(
                max(0.0, deadline - time.monotonic())
            ):
                self._take()

    def _take(self) -> None:
        try:
            message = self._messages.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise RuntimeError(
                f"the computation ended without a result (exit code {code}); probably there is "
                "not enough memory for files of this size"
            ) from None
        if isinstance(message, _Failure):
            raise ValueError(message.message)
        if isinstance(message, TaskResult):
            self.result = message
        else:
            self._progress = message

    def stop(self) -> None:
        """End the process, whatever it is doing; does nothing to one that has ended."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._messages.close()


def run_job(
    task: Task, arguments: dict[str, Any], time_limit: float
) -> Iterator[Progress | TaskResult]:
    """Run a task in another process, which ends with the iteration.

    Args:
        task: Function that takes `progress` and the arguments.
        arguments: Its keyword arguments.
        time_limit: Longest time, seconds.

    Yields:
        How far the task is, at least twice a second, and its result in the end.

    Raises:
        ValueError: The task failed, or took too long.
        RuntimeError: The process ended without a result.
    """
    began = time.monotonic()
    job = Job(task, arguments)
    try:
        for progress in job.updates():
            yield progress
            if time.monotonic() - began > time_limit:
                raise ValueError(
                    f"stopped after {time_limit / 60:.3g} minutes, the longest time of a job here"
                )
        assert job.result is not None
        yield job.result
    finally:
        job.stop()


def internal_error(error: Exception) -> str:
    """Print the traceback of an error that no task should raise; return a line for the user."""
    traceback.print_exc()
    return f"internal error, please report it: {type(error).__name__}: {error}"


def start_server() -> None:
    """Start the process from which jobs are forked, so that the first job need not wait for it."""
    forkserver.ensure_running()


def _work(sending: Connection, task: Task, arguments: dict[str, Any]) -> None:
    """Run a task and send its progress, then its result or why there is none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for the server
    threading.Thread(target=_end_with_server, daemon=True).start()
    last = ("", 0.0)

    def progress(stage: str, done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if stage != last[0] or now - last[1] > _INTERVAL or done == total:
            last = stage, now
            sending.send(Progress(stage, done, total))

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            result = task(**arguments, progress=progress)
        notes = [str(warning.message) for warning in caught if _is_ours(warning)]
        sending.send(_with_notes(result, notes))
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)  # nobody waits for the result any more
    except (ValueError, OSError, ImportError) as error:
        sending.send(_Failure(str(error)))
    except Exception as error:
        if is_out_of_memory(error):
            sending.send(_Failure("there is not enough memory for files of this size"))
            return
        sending.send(_Failure(internal_error(error)))


def _end_with_server() -> None:
    """End this process when the server ends, even by SIGKILL."""
    server = multiprocessing.parent_process()
    if server is not None:
        server.join()
        os._exit(1)


def _is_ours(warning: warnings.WarningMessage) -> bool:
    return warning.category is UserWarning and "flowmatch" in warning.filename


def _with_notes(result: TaskResult, notes: list[str]) -> TaskResult:
    return replace(result, notes=(*result.notes, *dict.fromkeys(notes)))
