"""Compiles the CUDA sources and the emulator into the Python module `emulated`."""

import fcntl
import importlib.util
import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import ninja
import pybind11

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "build" / "emulator"
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"]
# Undefined behaviour in a kernel traps; a low limit of blocks makes kernels launch several times.
KERNEL_FLAGS = [
    "-fsanitize=bounds,alignment,signed-integer-overflow",
    "-fsanitize-undefined-trap-on-error",
    "-DFLOWMATCH_MAX_BLOCKS=50",
]
RULES = """
rule compile
  command = $cxx -MMD -MF $out.d $flags -x c++ -c $in -o $out
  depfile = $out.d
  deps = gcc
rule link
  command = $cxx -shared $in -o $out
"""


def load() -> ModuleType:
    """Compile the sources that have changed and import the module."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    module = FOLDER / f"emulated{sysconfig.get_config_var('EXT_SUFFIX')}"
    with (FOLDER / "lock").open("w") as lock:  # one session at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        (FOLDER / "build.ninja").write_text(_rules(module))
        command = [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(FOLDER)]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"the emulated kernels do not compile:\n{result.stdout}")
    spec = importlib.util.spec_from_file_location("emulated", module)
    emulated = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(emulated)
    return emulated


def _rules(module: Path) -> str:
    python = sysconfig.get_path("include")
    include = [HERE / "include", ROOT / "csrc" / "cuda", python, pybind11.get_include()]
    flags = FLAGS + [f"-I{folder}" for folder in include]
    lines = [f"cxx = {os.environ.get('CXX', 'c++')}", RULES]
    objects = []
    for source in sorted([*(ROOT / "csrc" / "cuda").glob("*.cu"), *HERE.glob("*.cpp")]):
        kernels = source.suffix == ".cu" or source.name == "bindings.cpp"  # has the toy kernels
        objects.append(f"{source.stem}.o")
        lines.append(f"build {objects[-1]}: compile {_escape(source)}")
        lines.append(f"  flags = {shlex.join(flags + (KERNEL_FLAGS if kernels else []))}")
    lines.append(f"build {_escape(module)}: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"


def _escape(path: Path) -> str:
    return str(path).replace("$", "$$").replace(":", "$:").replace(" ", "$ ")
