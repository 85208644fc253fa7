"""Compiles csrc/cpu and kernels.cpp by clang, for this processor and for ARM.

The package ziglang brings clang. GCC's libraries are used and GCC links, because clang's would have
to be compiled first.
"""

import importlib.util
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "build" / "cross"
GLIBC = "2.36"  # not older than that of the headers of GCC's library
GCC = {"x86_64": "c++", "aarch64": "aarch64-linux-gnu-g++"}
FLAGS = [  # those of setup.py
    "-O3",
    "-std=c++17",
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Werror",
    "-Wno-psabi",
    f"-I{ROOT / 'csrc'}",
    f"-isystem{Path(torch.__file__).parent / 'include'}",
]


def clang(target: str, *arguments: str | Path) -> None:
    """Run clang with the flags of setup.py.

    Raises:
        RuntimeError: The compiler is missing, or failed; with its messages.
    """
    if importlib.util.find_spec("ziglang") is None:
        raise RuntimeError("ziglang, which brings clang, is not installed: pip install ziglang")
    FOLDER.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(FOLDER / "cache")}
    _run(
        [sys.executable, "-m", "ziglang", "c++", "-target", target, *FLAGS, *arguments], environment
    )


def program(machine: str) -> Path:
    """Return the program kernels.cpp with all kernels, compiled for a machine of `GCC`."""
    headers = [f"-I{folder}" for folder in _cxx_headers(GCC[machine])]

    def compiled(source: Path) -> Path:
        path = FOLDER / f"{source.stem}-{machine}.o"
        clang(f"{machine}-linux-gnu.{GLIBC}", "-nostdinc++", *headers, "-c", source, "-o", path)
        return path

    sources = [HERE / "kernels.cpp", *sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    path = FOLDER / f"kernels-{machine}"
    _run([GCC[machine], "-static", *objects, "-o", path])
    return path


def _cxx_headers(gcc: str) -> list[str]:
    """Return the folders of the headers of a GCC's C++ library."""
    search = _run([gcc, "-E", "-v", "-x", "c++", "/dev/null"])
    return [folder for folder in re.findall(r"^ (/\S+)$", search, re.MULTILINE) if "c++" in folder]


def _run(command: list[str | Path], environment: dict[str, str] | None = None) -> str:
    result = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True
    )
    if result.returncode:
        raise RuntimeError(f"{command[0]} fails:\n{result.stderr}")
    return result.stderr
