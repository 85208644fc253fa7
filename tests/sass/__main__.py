"""``python -m tests.sass``: compiles, counts, and compares with ``budget.txt``."""

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .count import blocks_per_multiprocessor, count, functions, short_names

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "sass"
BUDGET = HERE / "budget.txt"
ARCHITECTURES = ["sm_80", "sm_90"]
COLUMNS = ["threads", "shared", "registers", "stack", "blocks", "per_math", "loads", "staging",
           "evaluation"]  # fmt: skip
Table = dict[tuple[str, str], dict[str, tuple[float, float | None]]]  # (kernel, arch): budgets


def main() -> int:
    """Compare, or write the table anew."""
    parser = argparse.ArgumentParser(prog="python -m tests.sass", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="write budget.txt anew")
    parser.add_argument("sources", nargs="*", help="names of .cu files; all without")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    table = read()
    problems: list[str] = []
    counted: Table = {}
    for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
        if options.sources and source.name not in options.sources:
            continue
        print(f"nvcc {source.relative_to(ROOT)}", flush=True)
        binary = compiled(source)
        for arch in ARCHITECTURES:
            for kernel, values in measured(binary, arch, table).items():
                counted[kernel, arch] = values
    for key, values in counted.items():
        problems += compared(key, values, table.get(key))
    if options.write:
        write({**table, **counted} if options.sources else counted)
        return 0
    missing = [] if options.sources else [key for key in table if key not in counted]
    problems += [f"{kernel} {arch}: in {BUDGET.name}, but not compiled" for kernel, arch in missing]
    for problem in problems:
        print(problem)
    print(f"{len(counted)} kernels, {len(problems)} above {BUDGET.relative_to(ROOT)}")
    return 1 if problems else 0


def compiled(source: Path) -> Path:
    """The object file, with code for all architectures."""
    from torch.utils.cpp_extension import COMMON_NVCC_FLAGS

    to = BUILD / f"{source.name}.o"
    names = ["75", *(arch.removeprefix("sm_") for arch in ARCHITECTURES)]
    codes = [word for n in names for word in ("-gencode", f"arch=compute_{n},code=sm_{n}")]
    nvcc = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc"
    command = [str(nvcc), "-O3", "-std=c++17", *COMMON_NVCC_FLAGS, *codes, "-c", str(source)]
    subprocess.run([*command, "-o", str(to)], check=True)
    return to


def measured(binary: Path, arch: str, table: Table) -> Table:
    """What is counted for each kernel, with the targets of the table."""
    tool = disassembler()
    resources = _output(tool, "-arch", arch, "-res-usage", str(binary))
    usage = {
        name: (int(registers), int(stack))
        for name, registers, stack in re.findall(
            r"Function (\S+):\s+REG:(\d+) STACK:(\d+)", resources
        )
    }
    codes = functions(_output(tool, "-arch", arch, "-sass", str(binary)))
    names = short_names(list(codes))
    result = {}
    for mangled, code in codes.items():
        name = names[mangled]
        registers, stack = usage[mangled]
        known = table.get((name, arch), {})
        threads = int(known.get("threads", (256, None))[0])
        shared = int(known.get("shared", (0, None))[0])
        blocks = blocks_per_multiprocessor(registers, threads, shared, arch)
        values = {"threads": threads, "shared": shared, "registers": registers, "stack": stack,
                  "blocks": blocks, **count(name, code)}  # fmt: skip
        result[name] = {
            column: (round(value, 1), known.get(column, (0, None))[1])
            for column, value in values.items()
        }
    return result


def compared(key: tuple[str, str], values: dict, budget: dict | None) -> list[str]:
    """What is worse than the budget."""
    title = " ".join(key)
    if budget is None:
        return [f"{title}: has no line in {BUDGET.name}"]
    problems = []
    for column, (value, _) in values.items():
        allowed = budget.get(column, (float("inf"), None))[0]
        worse = value < allowed if column == "blocks" else value > allowed
        if worse and allowed != float("inf"):
            problems.append(f"{title}: {column} {value:g}, budget {allowed:g}")
    return problems


def read() -> Table:
    """The table of budgets."""
    table: Table = {}
    for line in BUDGET.read_text().splitlines() if BUDGET.exists() else []:
        if line and not line.startswith("#"):
            kernel, arch, *cells = line.split()
            table[kernel, arch] = {
                column: (float(cell.split(">")[0]), _target(cell))
                for column, cell in zip(COLUMNS, cells, strict=True)
                if cell != "-"
            }
    return table


def write(table: Table) -> None:
    """Write the table, in columns."""
    rows = [["# kernel", "arch", *COLUMNS]]
    for (kernel, arch), values in sorted(table.items()):
        cells = []
        for column in COLUMNS:
            value, target = values.get(column, (None, None))
            cell = "-" if value is None else f"{value:g}"
            met = value is None or target is None or value <= target
            cells.append(cell if met else f"{cell}>{target:g}")
        rows.append([kernel, arch, *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    BUDGET.write_text("\n".join(line.rstrip() for line in lines) + "\n")


def _target(cell: str) -> float | None:
    return float(cell.split(">")[1]) if ">" in cell else None


def disassembler() -> str:
    """The path of cuobjdump: the toolkit's, or that of the wheel nvidia-cuda-cuobjdump."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "cuobjdump"
    if toolkit.exists():
        return str(toolkit)
    try:
        files = importlib.metadata.files("nvidia-cuda-cuobjdump") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "cuobjdump":
            return str(file.locate())
    found = shutil.which("cuobjdump")
    if not found:
        sys.exit("no cuobjdump in the toolkit: pip install nvidia-cuda-cuobjdump")
    return found


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
