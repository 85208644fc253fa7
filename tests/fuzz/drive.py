"""Runs a reader on mutated files, in a child process that may crash, hang or run out of memory."""

import mmap
import os
import random
import resource
import signal
import sys
import time
import traceback
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .mutate import mutate
from .readers import Reader

SLOW = 1.0  # seconds of processor time
HANG = 20  # seconds of processor time, after which the child is ended
WAIT = 600  # seconds, after which it is ended although it computes nothing
_TRACED = 50  # every so many inputs, memory is measured
_MULTIPLE = 4  # most memory for a file, besides the reader's constant: a multiple of its size
_RESIDENT = 2**26  # bytes by which an input may raise the peak of resident memory
_SHOWN = 5  # inputs of a kind of fault that are kept


@dataclass
class Tally:
    """Counts of a run.

    Attributes:
        inputs: Files tried.
        read: Files that were read without an error.
        faults: Number of inputs for each kind of fault.
    """

    inputs: int = 0
    read: int = 0
    faults: Counter[str] = field(default_factory=Counter)


def make_input(reader: Reader, seed: int, number: int) -> tuple[str, bytes]:
    """Return the name and the content of an input."""
    rng = random.Random(seed * 1_000_003 + number)
    chosen = rng.choice(reader.seeds)
    others = [other.content for other in reader.seeds if other.name == chosen.name]
    content = mutate(rng, chosen.content, others, reader.words)
    if chosen.repair is not None and rng.random() < 0.8:
        content = chosen.repair(content)
    return chosen.name, content


def warm_up(reader: Reader, folder: Path) -> None:
    """Import what a reader needs, so that it does not count as its time."""
    for seed in reader.seeds:
        (folder / seed.name).write_bytes(seed.content)
        with suppress(*reader.errors):
            reader.read(folder / seed.name)


def find_fault(reader: Reader, path: Path) -> str | None:
    """Read a file; return the kind of fault, an empty text if it was read, None if refused.

    While memory is traced, more of it than `_MULTIPLE` file sizes is a fault too.
    """
    began = time.process_time()
    noise = os.fstat(2).st_size
    fault: str | None = ""
    try:
        try:
            result = reader.read(path)
        finally:
            seconds = time.process_time() - began
            printed = os.fstat(2).st_size != noise
            peak = tracemalloc.get_traced_memory()[1]  # before the other reader's
    except reader.errors as error:
        fault = _fault_of_message(str(error), path)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error}"
    else:
        difference = None
        if reader.compare is not None:
            with suppress(Exception):  # the other reader may refuse the file, in any way
                difference = reader.compare(path, result)
        if difference:
            fault = f"silent difference: {difference}"
    if seconds > SLOW:
        fault = f"slow: {seconds:.1f} s"
    if printed and not fault:
        fault = "prints on stderr"
    if not fault and peak > _MULTIPLE * path.stat().st_size * reader.expands + reader.constant:
        fault = f"memory: {peak} bytes for {path.stat().st_size}"
    return fault


def _fault_of_message(message: str, path: Path) -> str | None:
    if "llocate" in message or "nsufficient memory" in message or "out of memory" in message:
        return f"allocation: {message}"
    if not message.isprintable():
        return f"message is not one printable line: {message!r}"
    if len(message) > 1200:
        return f"message of {len(message)} characters: {message[:80]}"
    if path.name not in message and path.parent.name not in message:
        return f"message does not name the file: {message}"
    return None


def traced(reader: Reader, path: Path) -> str | None:
    """Return as `find_fault` does, and trace memory."""
    tracemalloc.start()
    try:
        return find_fault(reader, path)
    finally:
        tracemalloc.stop()


def run(
    reader: Reader, folder: Path, *, inputs: int, seed: int = 0, keep: Path | None = None
) -> Tally:
    """Try a reader on `inputs` mutated files.

    Args:
        reader: The reader.
        folder: Folder for the file of each input, best in memory.
        inputs: Number of inputs.
        seed: Random seed; the same gives the same inputs.
        keep: Folder for the first inputs of each kind of fault.
    """
    tally = Tally()
    while tally.inputs < inputs:
        for number, fault in _child(reader, folder, seed, range(tally.inputs, inputs), tally):
            kind = fault.replace(str(folder), "").replace("\n", " ")[:160]
            tally.faults[kind] += 1
            if keep is not None and tally.faults[kind] <= _SHOWN:
                _keep(keep, reader, seed, number, kind)
    return tally


def _keep(keep: Path, reader: Reader, seed: int, number: int, kind: str) -> None:
    name, content = make_input(reader, seed, number)
    keep.mkdir(parents=True, exist_ok=True)
    (keep / f"{reader.name}-{seed}-{number}-{name}").write_bytes(content)
    with (keep / "faults.txt").open("a") as file:
        file.write(f"{reader.name}-{seed}-{number}-{name}\t{kind}\n")


def _child(
    reader: Reader, folder: Path, seed: int, numbers: range, tally: Tally
) -> Iterator[tuple[int, str]]:
    """Yield the number and the kind of each fault, until the child process ends."""
    receive, send = os.pipe()
    counts = np.frombuffer(mmap.mmap(-1, 16), np.int64)  # shared: inputs tried, files read
    counts[0] = numbers.start
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(receive)
        try:
            _work(reader, folder, seed, numbers, send, counts)
        except BaseException:
            os.write(send, f"{counts[0]}\tchild failed {traceback.format_exc()!r}\n".encode())
            counts[0] = numbers.stop
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, errors="replace") as lines:
        for line in lines:
            number, _, text = line.rstrip("\n").partition("\t")
            yield int(number), text
    _, status = os.waitpid(child, 0)
    tally.inputs, tally.read = int(counts[0]), tally.read + int(counts[1])
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        yield tally.inputs, f"{'hang' if name in ('SIGALRM', 'SIGPROF') else 'crash'}: {name}"
        tally.inputs += 1


def _work(
    reader: Reader, folder: Path, seed: int, numbers: range, send: int, counts: np.ndarray
) -> None:
    """Read inputs, count them, and send a line for each fault."""
    os.dup2(os.open(folder / "stderr", os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600), 2)
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", UserWarning)
    warm_up(reader, folder)  # before memory is limited
    limit = _address_space() + reader.room
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    for number in numbers:
        name, content = make_input(reader, seed, number)
        path = folder / name
        path.write_bytes(content)
        signal.alarm(WAIT)
        signal.setitimer(signal.ITIMER_PROF, HANG)
        before = _peak()
        fault = (traced if number % _TRACED == 0 else find_fault)(reader, path)
        if (grown := _peak() - before) > _RESIDENT + _MULTIPLE * len(content) * reader.expands:
            fault = fault or f"memory: {grown >> 20} MB more are resident"
        counts[0] += 1
        counts[1] += fault == ""
        if fault:
            os.write(send, f"{number}\t{repr(fault)[1:-1][:500]}\n".encode())


def _peak() -> int:
    """Return the largest resident memory so far, in bytes; also that of decoders written in C."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
