"""Clips in several processes of this machine, each with its device and its share of the cores."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from flowmatch._signals import sigterm_as_exit
from flowmatch.batch.clip import ClipFlow, ClipReport
from flowmatch.batch.options import ClipOptions
from flowmatch.batch.plan import Clip
from flowmatch.io._files import reason_of
from flowmatch.io._video_stream import without_password

_PATIENCE = 10.0  # seconds in which a process removes its temporary files after SIGTERM


def devices_of(device: str | None, jobs: int) -> list[str]:
    """Return a device for each process: the GPUs in turn, if no other device is named.

    Example:
        >>> devices_of("cpu", 2), devices_of("cuda:1", 2)
        (['cpu', 'cpu'], ['cuda:1', 'cuda:1'])
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cuda":
        return [device] * jobs
    return [f"cuda:{job % torch.cuda.device_count()}" for job in range(jobs)]


def write_in_processes(
    clips: Sequence[Clip],
    output: Path,
    options: ClipOptions,
    device: str | None,
    jobs: int,
    progress: Callable[[str, int], None],
) -> Iterator[ClipReport]:
    """Yield the report of each clip, as the clips become ready.

    Args:
        clips: The clips.
        output: Folder of all clips.
        options: Options of the flows.
        device: Device of all processes, see `devices_of`.
        jobs: Number of processes.
        progress: Called with the name of a clip and the number of its pairs that are done.
    """
    waiting = deque(clips)
    jobs = min(jobs, len(clips))
    threads = max(1, torch.get_num_threads() // max(jobs, 1))

    def start(device: str) -> "_Process":
        return _Process(device, (str(output), options, device, threads))

    busy = [start(name) for name in devices_of(device, jobs)]
    try:
        for process in busy:
            process.give(waiting.popleft())
        while busy:
            ready = wait([process.connection for process in busy])
            for process in [process for process in busy if process.connection in ready]:
                message = process.receive()
                if isinstance(message, int):
                    progress(process.clip.name, message)
                    continue
                yield message
                if process.is_lost or not waiting:
                    process.end()
                    busy.remove(process)
                    if not waiting:
                        continue
                    process = start(process.device)
                    busy.append(process)
                process.give(waiting.popleft())
    finally:
        for process in busy:
            process.process.terminate()
        for process in busy:
            process.end()


class _Process:
    """A process that writes clips, one after another."""

    def __init__(self, device: str, arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self.device, self.clip = device, Clip("", "")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, *arguments), daemon=True)
        self.process.start()
        other.close()
        self.is_lost = False

    def give(self, clip: Clip) -> None:
        self.clip = clip
        with suppress(OSError):  # it was killed meanwhile: `receive` reports that
            self.connection.send(clip)

    def receive(self) -> int | ClipReport:
        """Return the number of pairs done, or the report of the clip, also of a lost process."""
        try:
            message: int | ClipReport = self.connection.recv()
        except (EOFError, OSError):
            self.is_lost = True
            self.process.join(_PATIENCE)
            code = self.process.exitcode or 0
            cause = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
            source, name = without_password(self.clip.source), self.clip.name
            return ClipReport(source, name, error=f"its process ended {cause}")
        return message

    def end(self) -> None:
        """Wait for the end of the process; kill one that does not end."""
        self.connection.close()
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _serve(
    connection: Connection, output: str, options: ClipOptions, device: str, threads: int
) -> None:
    """Write the clips that come through a connection until it is closed."""
    # Ctrl-C reaches all processes of a terminal: the first one ends the others, by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker: ClipFlow | None = None
    with sigterm_as_exit():
        while True:
            try:
                clip = connection.recv()
            except (EOFError, OSError):
                return
            try:
                worker = worker or ClipFlow(output, options, device, threads)
                report = worker.write(clip, connection.send)
            except Exception as error:  # noqa: BLE001 - the network cannot be loaded here
                source = without_password(clip.source)
                report = ClipReport(source, clip.name, error=reason_of(error))
            try:
                connection.send(report)
            except OSError:  # the first process was killed
                return
