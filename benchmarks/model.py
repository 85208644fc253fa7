"""A model of the CUDA kernels on an H200, from the instructions that ``make sass`` counts.

A warp's instructions are those of its loops in sm_90 code, on the path that is usually taken. A
wave of blocks takes as long as the four schedulers of a multiprocessor need to issue the
instructions of all its warps, or as long as one warp waits for memory, whichever is longer; where
blocks read much again, the second-level cache may take longer still. That is good to about 40 %;
times below it would be surprising, times far above it have a cause to find.

    python benchmarks/model.py [benchmarks/results/cuda-float32.json ...]

prints the floor (bytes at 4.3 TB/s, or products at the rate of tensor cores), the model, and, where
results of ``flowmatch bench`` are given, what was measured, in microseconds.
"""

import json
import sys
from math import ceil
from pathlib import Path
from typing import NamedTuple

MULTIPROCESSORS, SCHEDULERS, CLOCK = 132, 4, 1.8e9
LATENCY = 650  # clocks from a load to its use, from the second-level cache
CACHE = 5.5e12  # bytes a second from the second-level cache
ISSUE = 2  # clocks from one instruction of a warp to the next


class Launch(NamedTuple):
    """Blocks, warps in each, blocks on a multiprocessor; of a warp: instructions and waits."""

    blocks: int
    warps: int
    resident: int
    instructions: float
    waits: float  # for loads, one after another
    traffic: float = 0  # bytes that all blocks read, where they are many

    def microseconds(self) -> float:
        """The time of all waves."""
        waves = ceil(self.blocks / (MULTIPROCESSORS * self.resident))
        together = min(self.resident, ceil(self.blocks / MULTIPROCESSORS))
        issue = together * self.warps * self.instructions / SCHEDULERS
        wait = self.waits * LATENCY + ISSUE * self.instructions
        return max(waves * max(issue, wait) / CLOCK, self.traffic / CACHE) * 1e6


def volume(tiles: int, channels: int, side: int, dtype: str) -> list[Launch]:
    """correlation: `tiles` of 4 x 32 pixels."""
    if dtype == "tf32":  # slices of 16 channels
        slices = ceil(channels / 16)
        body = 300 + slices * (3 * 95 + 115) + 4 * (60 + (side + 1) // 2 * 8.3)
        return [Launch(tiles * ceil((side + 3) / 4), 8, 2, body, 3 * slices)]
    if dtype == "float32":  # CUDA cores: 8 channels a slice
        wide = side > 9
        slices = channels // 8
        parts = ceil((side + 3) / 2 / (4 if wide else 6)) if wide else 1
        warps = 8 if wide else 6
        body = slices * (117 * 8 + 550) + side * 60
        return [Launch(tiles * parts, warps, 2, body, slices)]
    slices = ceil(channels / 32)  # of a warp: three copies, 40 matrix products
    body = 300 + slices * (3 * 125 + 140) + 4 * (60 + (side + 1) // 2 * 8.3)
    return [Launch(tiles * ceil((side + 3) / 4), 8, 2, body, 3 * slices)]


def volume_gradients(tiles: int, channels: int, side: int, dtype: str) -> list[Launch]:
    """correlation_grad, of both images."""
    rows = side + 3
    if dtype == "float32":  # four displacements at a time; staging takes as long
        groups = ceil(channels / 32)
        body = rows * 306 * side / 4 * 2
        return 2 * [Launch(tiles * ceil(groups / 4), 2 * min(groups, 4), 2, body, rows * 4)]
    body = 600 + rows * (440 if channels < 64 else 520)
    return 2 * [Launch(tiles * ceil(channels / 64), 8, 2, body, 3 * rows)]


def lookups(dtype: str, count: int) -> list[Launch]:
    """correlation_lookup at 55 x 128, 256 channels, radius 4, four levels."""
    if dtype == "float32":
        return 4 * count * [Launch(880, 8, 2, 25 * 120 + 650, 26)]
    # All levels in one launch, blocks of 8 x 16 pixels, in a flow that is smooth. Of each level:
    # rows and columns of the box around the windows, and the rows that a warp multiplies.
    boxes = [(17, 25, 13), (14, 18, 12), (12, 14, 11), (11, 12, 11)]
    body = 870 + sum(97 * rows + 175 * own for rows, _, own in boxes) / len(boxes)
    pixels = 4 * 128 + sum(rows * columns for rows, columns, _ in boxes)  # of f1 and of f2
    return count * [Launch(4 * 56, 8, 2, body, 5, 56 * pixels * 512)]


def lookup_gradients(dtype: str) -> list[Launch]:
    """correlation_lookup_grad of one lookup: pixels, windows of each tile, sums of the parts."""
    taps = 25 * (120 if dtype == "float32" else 170)
    pixels = Launch(880, 8, 2, taps + 4 * 121 + 25 * (63 if dtype == "float32" else 111) + 300, 60)
    gathers = []
    for level in range(4):
        height, width = 55 >> level, 128 >> level
        tiles = ceil(height / 4) * ceil(width / 8)
        parts = ceil(512 / tiles)
        near = min(1.0, 13 * 17 / (height * width))  # windows that overlap a tile
        windows = 7040 * near / parts
        rounds = ceil(7040 / (256 * parts))
        body = windows * 110 + rounds * 150 + 300
        gathers.append(Launch(tiles * parts, 8, 4, body, windows / 2 + rounds * 2))
        gathers.append(Launch(height * width, 8, 8, 40 + 6 * parts, 1 + parts / 8))
    return 4 * [pixels] + gathers


def search(count: int, dtype: str) -> list[Launch]:
    """nearest, count x count vectors of 128 dimensions."""
    tiles = ceil(count / 128)
    parts = max(1, min(264 // tiles, count // 1024))
    steps = ceil(tiles / parts)
    slices = 4 * (180 if dtype == "bfloat16" else 285)
    # Empty lists: about ten rounds of 512 pairs, 64 of them compared by each warp, four at once: 41
    # instructions for each, and 64 of the threads that keep lists to find their pairs.
    first = 10 * 64
    waits = first / 4 * (2 if dtype == "float32" else 1)
    waits += steps * (4 if dtype == "float32" else 1.5)
    return [Launch(tiles * parts, 8, 2, steps * (slices + 290) + first * 105, waits)]


def hamming(count: int) -> list[Launch]:
    """The search by bits, 256 of them; bound by their logic, 16 lanes a clock."""
    tiles = ceil(count / 128)
    parts = max(1, min(1056 // tiles, count // 256))
    clocks = 46  # of a pair: 16 operations of logic and about 7 others, two clocks each
    return [Launch(tiles * parts, 4, 10, count / parts * clocks, count / parts / 64)]


def pairwise(batch: int, count: int, dtype: str) -> list[Launch]:
    """pairwise_distance, 128 dimensions."""
    if dtype == "float32":  # eight slices of 16
        body = 8 * (4 * 77 + 60) + 300
        return [Launch(batch * ceil(count / 64) ** 2, 8, 5, body, 9)]
    return [Launch(batch * ceil(count / 128) ** 2, 8, 2, 4 * 155 + 64 * 14 + 200, 4)]


FLOORS = {  # microseconds
    ("correlation", "FlowNetC", "forward"): (21.8, 10.9),
    ("correlation", "FlowNetC", "forward+backward"): (55.3, 27.6),
    ("correlation", "PWC", "forward"): (13.3, 6.6),
    ("correlation", "PWC", "forward+backward"): (32.4, 16.2),
    ("correlation", "RAFT-local", "forward"): (6.2, 3.1),
    ("correlation_lookup", "RAFT, 12 lookups", "forward"): (72, 48),
    ("correlation_lookup", "RAFT, 1 lookup", "forward"): (6, 4),
    ("correlation_lookup", "RAFT, 1 lookup", "forward+backward"): (21, 14),
    ("nearest", "l2 8192", "forward"): (22, 22),
    ("nearest", "l2 32768", "forward"): (348, 348),
    ("nearest", "hamming 8192", "forward"): (22, None),
    ("nearest", "hamming 32768", "forward"): (348, None),
    ("pairwise_distance", "64 x 512", "forward"): (23.4, 15.6),
    ("pairwise_distance", "4096", "forward"): (23.4, 15.6),
}
TILES = {"FlowNetC": 8 * 4 * 6, "PWC": 8 * 24 * 4, "RAFT-local": 4 * 7 * 2}
CHANNELS = {"FlowNetC": 256, "PWC": 32, "RAFT-local": 256}


def modelled(op: str, case: str, kind: str, dtype: str) -> float:
    """Microseconds of a case, at least those of its floor."""
    time = sum(launch.microseconds() for launch in launches(op, case, kind, dtype))
    return max(time, FLOORS[op, case, kind][dtype == "bfloat16"] or 0)


def launches(op: str, case: str, kind: str, dtype: str) -> list[Launch]:
    """The launches of a case of the benchmark."""
    if op == "correlation":
        sizes = (TILES[case], CHANNELS[case], 9 if case == "PWC" else 21, dtype)
        return volume(*sizes) + (volume_gradients(*sizes) if "backward" in kind else [])
    if op == "correlation_lookup":
        forward = lookups(dtype, 12 if "12" in case else 1)
        return forward + (lookup_gradients(dtype) if "backward" in kind else [])
    if op == "pairwise_distance":
        return pairwise(64, 512, dtype) if "512" in case else pairwise(1, 4096, dtype)
    count = int(case.split()[-1])
    return hamming(count) if "hamming" in case else search(count, dtype)


def main() -> None:
    """Print the table."""
    rows = [row for path in sys.argv[1:] for row in json.loads(Path(path).read_text())["rows"]]
    measured = {
        (row["op"], row["case"], row["pass"], row["dtype"]): 1000 * row["median_ms"]
        for row in rows
        if row["implementation"] == "flowmatch"
    }
    print("| operator | case | pass | type | floor, us | model, us | of the floor | measured, us |")
    print("|---|---|---|---|---|---|---|---|")
    for (op, case, kind), floors in FLOORS.items():
        for dtype, floor in zip(("float32", "bfloat16"), floors, strict=True):
            if floor is None:
                continue
            type_ = "uint8" if "hamming" in case else dtype
            time = modelled(op, case, kind, dtype)
            seen = measured.get((op, case, kind, type_))
            print(
                f"| {op} | {case} | {kind} | {type_} | {floor:g} | {time:.0f} | "
                f"{time / floor:.1f}x | {'' if seen is None else f'{seen:.0f}'} |"
            )


if __name__ == "__main__":
    main()
