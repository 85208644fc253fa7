"""Commands on a disk that is full at a random moment: ``python -m tests.interruption.full_disk``.

The disk is a tmpfs, which only root may mount.
"""

import random
import subprocess
import sys
from pathlib import Path

from .commands import COMMANDS, digests, leftovers, run, try_all


def try_disks(name: str, folder: Path, times: int, seed: int) -> list[str]:
    """Run a command on small disks, continue on a larger one, and return what is wrong."""
    command, rng = COMMANDS[name], random.Random(seed)
    inputs, log = folder / "inputs", folder / "log"
    whole = folder / "whole" / command.output
    whole.parent.mkdir()
    if status := run(command.words(inputs, whole), log):
        return [f"{name}: the whole run ends with {status}: {log.read_text()[-300:]}"]
    expected, faults, full = digests(whole), [], 0
    size = sum(file.stat().st_size for file in whole.parent.rglob("*") if file.is_file())
    disk = folder / "disk"
    disk.mkdir()
    for number in range(times):
        small = max(4096, int(size * rng.uniform(0.05, 0.95)) // 4096 * 4096)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={small}", "tmpfs", disk], check=True)
        try:
            words = command.words(inputs, disk / command.output)
            status = run(words, log)
            lines = [line for line in log.read_text().splitlines() if "error" in line.lower()]
            full += status != 0
            where = f"{name} {number} on {small} bytes"
            if status not in (0, 2) or (status == 2 and len(lines) != 1):
                faults.append(f"{where}: status {status}, {lines or log.read_text()[-300:]}")
            if names := leftovers(disk / command.output):
                faults.append(f"{where}: {names} stay")
            got = digests(disk / command.output)
            cut = [key for key in got if key in expected and got[key] != expected[key]]
            # A checkpoint or an index of fewer steps is whole, too; the next run goes on from it.
            if cut and name not in ("train", "index"):
                faults.append(f"{where}: {cut} are not whole")
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            if status := run([*words, *command.again], log):
                faults.append(f"{where}: goes on with {status}: {log.read_text()[-200:]}")
            if digests(disk / command.output) != expected:
                faults.append(f"{where}: other bits after going on")
        finally:
            subprocess.run(["umount", disk], check=True)
    print(f"{name}: {full} of {times} disks were full, {len(faults)} faults", flush=True)
    return faults


if __name__ == "__main__":
    sys.exit(try_all(try_disks, "python -m tests.interruption.full_disk", __doc__, times=5))
