"""Try readers on mutated files: ``python -m tests.fuzz READER --inputs N --seed S``."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from .drive import run
from .readers import READERS


def main() -> int:
    """Run the command line; the status is 1 if there are faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("reader", nargs="+", choices=[*READERS, "all"])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs that show a fault")
    options = parser.parse_args()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    found = 0
    for name in READERS if "all" in options.reader else options.reader:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            tally = run(
                READERS[name], Path(folder), inputs=options.inputs, seed=options.seed,
                keep=options.keep,
            )  # fmt: skip
        seconds = time.monotonic() - began
        print(
            f"{name}: {tally.inputs} inputs, {tally.read} read, {sum(tally.faults.values())} "
            f"faults of {len(tally.faults)} kinds, {tally.inputs / seconds:.0f} inputs/s"
        )
        for kind, count in tally.faults.most_common():
            print(f"  {count:6d} x {kind}")
        found += len(tally.faults)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
