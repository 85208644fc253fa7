"""Kill commands at random moments: ``python -m tests.interruption flow --times 50``."""

import random
import shutil
import sys
import time
from pathlib import Path

from .commands import (
    COMMANDS,
    SIGNALS,
    digests,
    kill_after,
    leftovers,
    run,
    try_all,
)


def try_kills(name: str, folder: Path, times: int, seed: int) -> list[str]:
    """Kill a command `times` times, continue it, and return what differs from a whole run."""
    command, rng = COMMANDS[name], random.Random(seed)
    inputs, log = folder / "inputs", folder / "log"
    whole = folder / "whole" / command.output
    for target in (folder / "warm" / command.output, whole):  # the first run imports
        target.parent.mkdir()
        began = time.monotonic()
        status = run(command.words(inputs, target), log)
        seconds = time.monotonic() - began
        if status:
            return [f"{name}: the whole run ends with {status}: {log.read_text()[-300:]}"]
    expected, faults, killed = digests(whole), [], 0
    for number in range(times):
        kind = ("kill", "term")[number % 2]
        target = folder / f"{name}-{number}" / command.output
        target.parent.mkdir()
        words = command.words(inputs, target)
        status = kill_after(words, log, rng.uniform(0, seconds), SIGNALS[kind])
        killed += status != 0
        if kind == "term" and (names := leftovers(target)):
            faults.append(f"{name} {number}: {names} stay after SIGTERM")
        if status not in (0, -9, 143, -15):
            faults.append(f"{name} {number}: status {status}: {log.read_text()[-200:]}")
        status = run([*words, *command.again], log)
        if status:
            faults.append(f"{name} {number} {kind}: ends with {status}: {log.read_text()[-200:]}")
        if (got := digests(target)) != expected:
            names = sorted(k for k in got.keys() | expected if got.get(k) != expected.get(k))
            faults.append(f"{name} {number} {kind}: other bits of {names}")
        shutil.rmtree(target.parent)
    print(f"{name}: {killed} of {times} runs ended by a signal, {len(faults)} faults", flush=True)
    return faults


if __name__ == "__main__":
    sys.exit(try_all(try_kills, "python -m tests.interruption", __doc__, times=10))
