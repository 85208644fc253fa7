"""Small runs of the commands that write many files, in child processes."""

import argparse
import hashlib
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowmatch._opencv import cv2
from flowmatch.cli import main
from flowmatch.io import write_cloud, write_image


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        words: Function from the folder of the inputs and the output to the words.
        output: Name of the output.
        again: Words that continue an interrupted run.
    """

    words: Callable[[Path, Path], list[str]]
    output: str
    again: tuple[str, ...] = ()


COMMANDS = {
    "flow": Command(
        lambda inputs, output: [
            "flow", f"{inputs / 'frames'}", "-o", f"{output}", "--quality", "fast",
        ],
        "flow",
    ),
    "video": Command(
        lambda inputs, output: [
            "flow", f"{inputs / 'frames'}", "-o", f"{output}", "--quality", "fast", "--video",
            "--pictures",
        ],
        "flow",
    ),
    "match": Command(
        lambda inputs, output: [
            "match", f"{inputs / 'frames'}", "--pairs", f"{inputs / 'pairs.txt'}", "-o",
            f"{output}", "--model", "rootsift", "--colmap",
        ],
        "matches",
    ),
    "train": Command(
        lambda inputs, output: [
            "train", "flow", "--recipe", "tiny", "-o", f"{output}", "--photos",
            f"{inputs / 'frames'}", "--workers", "0", "--device", "cpu",
        ],
        "runs",
        ("--resume",),
    ),
    "index": Command(
        lambda inputs, output: [
            "index", f"{inputs / 'frames'}", "-o", f"{output}", "--model", "rootsift", "--words",
            "4",
        ],
        "index.safetensors",
    ),
    "fuse": Command(
        lambda inputs, output: ["fuse", f"{inputs / 'recording'}", "-o", f"{output}.ply"],
        "surface",
    ),
    "fragments": Command(
        lambda inputs, output: [
            "fuse", f"{inputs / 'recording'}", "-o", f"{output}", "--frames-per-fragment", "2",
        ],
        "fragments",
    ),
    "mesh": Command(
        lambda inputs, output: ["fuse", f"{inputs / 'recording'}", "-o", f"{output}.glb"],
        "surface",
    ),
    "stitch": Command(
        lambda inputs, output: [
            "stitch", f"{inputs / 'photos'}", "-o", f"{output}.jpg", "--motion", "affine",
            "--save-cameras", f"{output}.json",
        ],
        "panorama",
    ),
    "preview": Command(
        lambda inputs, output: [
            "stitch", f"{inputs / 'photos'}", "-o", f"{output}.png", "--motion", "affine",
            "--preview",
        ],
        "panorama",
    ),
    "register": Command(
        lambda inputs, output: [
            "register", f"{inputs / 'a.ply'}", f"{inputs / 'b.ply'}", "-o", f"{output}.las",
            "--json", f"{output}.json", "--picture", f"{output}.png", "--model", "fpfh",
        ],
        "moved",
    ),
    "track": Command(
        lambda inputs, output: [
            "track", f"{inputs / 'frames'}", "--box", "40,40,40,40", "-o", f"{output}.csv",
            "--video", "--quality", "fast",
        ],
        "boxes",
    ),
    "align": Command(
        lambda inputs, output: [
            "align", f"{inputs / 'frames/0.png'}", f"{inputs / 'frames/1.png'}", "-o",
            f"{output}.png",
        ],
        "aligned",
    ),
}  # fmt: skip


def make_inputs(folder: Path) -> None:
    """Write frames, a list of pairs, photos, scans and an RGB-D recording."""
    (folder / "frames").mkdir(parents=True)
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 255, (12, 16, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    for k in range(6):
        write_image(folder / "frames" / f"{k}.png", np.roll(ground, 2 * k, axis=1))
    pairs = [f"{a}.png {b}.png" for a in range(6) for b in range(a)]
    (folder / "pairs.txt").write_text("\n".join(pairs) + "\n")
    (folder / "photos").mkdir()
    wide = cv2.resize(rng.integers(0, 255, (60, 120, 3), np.uint8), (960, 480))
    for k in range(3):
        write_image(folder / "photos" / f"{k}.png", wide[40:440, 200 * k : 200 * k + 480])
    v, u = rng.uniform(0, 3, (2, 6000))
    height = np.sin(2 * u) * np.cos(3 * v) + 0.3 * (np.hypot(u - 1, v - 2) < 0.5)
    scan = np.stack([u, v, height], 1)
    write_cloud(folder / "a.ply", scan[u < 2.5])
    write_cloud(folder / "b.ply", scan[u > 0.5] + [0.3, 0.1, 0])
    recording = folder / "recording"
    (recording / "depth").mkdir(parents=True)
    y, x = np.mgrid[:48, :64]
    lines = []
    for k in range(6):
        depth = (1000 + 200 * np.sin(x / 9 + k / 9) * np.cos(y / 7)).astype(np.uint16)
        cv2.imwrite(str(recording / "depth" / f"{k}.png"), depth)
        lines.append(f"{k} 1 0 0 {0.01 * k} 0 1 0 0 0 0 1 0 0 0 0 1")
    (recording / "poses.txt").write_text("\n".join(lines))
    (recording / "intrinsics.txt").write_text("60 60 31.5 23.5")


def shorten_runs() -> None:
    """Make the recipe `tiny`, and let training and indexing save after every step."""
    from flowmatch.flow.training import recipes
    from flowmatch.retrieval import update
    from flowmatch.training import Schedule, loop

    small = recipes.RECIPES["pyramid-small"]
    schedule = Schedule(steps=6, batch=2)
    recipes.RECIPES["tiny"] = type(small)(**{**vars(small), "schedule": schedule})
    loop.train.__wrapped__.__kwdefaults__["every"] = 2
    update._SAVE_AFTER = update._SAVE_FACTOR = 0.0


def start(words: list[str], log: Path) -> int:
    """Start a command in a child process, and return its number."""
    child = os.fork()
    if child == 0:
        file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        try:
            status = main(words)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            status = 70
        os._exit(status)
    return child


def finish(child: int) -> int:
    """Return the exit status of a child process; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(words: list[str], log: Path) -> int:
    """Run a command in a child process, and return its exit status."""
    return finish(start(words, log))


def digests(output: Path) -> dict[str, str]:
    """Return a hash of each file of an output, but not of the logs of training."""
    files = [p for p in sorted(output.parent.rglob("*")) if p.is_file() and "logs" not in p.parts]
    return {
        str(p.relative_to(output.parent)): hashlib.sha256(p.read_bytes()).hexdigest()[:16]
        for p in files
    }


def leftovers(output: Path) -> list[str]:
    """Return the names of temporary files beside and in an output."""
    return [path.name for path in output.parent.rglob(".flowmatch-*")]


def kill_after(words: list[str], log: Path, seconds: float, number: int) -> int:
    """Start a command, send a signal after some time, and return its exit status."""
    child = start(words, log)
    time.sleep(seconds)
    os.kill(child, number)
    return finish(child)


SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}


def try_all(
    attempt: Callable[[str, Path, int, int], list[str]], prog: str, about: str | None, *, times: int
) -> int:
    """Run the command line of a test of commands; the status is 1 if there are faults.

    Args:
        attempt: Function from the name of a command, a folder with its inputs, a number of times
            and a seed to the faults.
        prog: Name of the program.
        about: What it does.
        times: Number of times, by default.
    """
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument("command", nargs="+", choices=[*COMMANDS, "all"])
    parser.add_argument("--times", type=int, default=times)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shorten_runs()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder) / "inputs")
        for name in COMMANDS if "all" in options.command else options.command:
            part = Path(folder) / name
            part.mkdir()
            (part / "inputs").symlink_to(Path(folder) / "inputs")
            faults += attempt(name, part, options.times, options.seed)
    print("\n".join(faults))
    return 1 if faults else 0
