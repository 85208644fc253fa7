"""Compiles csrc/ into flowmatch/_C.abi3.so. The rest of the build is configured in pyproject.toml.

The library uses only PyTorch's stable ABI: one binary works with every torch >= 2.11 and every
Python >= 3.10, whichever torch it was compiled with. FLOWMATCH_KERNELS selects the kernels:

    auto   all that this machine can compile: CUDA and CPU, CPU only, or none (default)
    cuda   CUDA and CPU; fails if that is not possible
    cpu    CPU; fails if that is not possible
    none   no kernels: the reference implementations in flowmatch/ops are used
"""

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import setup

KERNELS = os.environ.get("FLOWMATCH_KERNELS", "auto")
TORCH_FLOOR = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # 2.11, the oldest supported torch
CXX = ["-O3", "-std=c++17", "-fvisibility=hidden", TORCH_FLOOR]
CXX += ["-fno-math-errno", "-fno-trapping-math"]  # needed to vectorise sqrt and selects
CXX += ["-Wno-psabi", "-Wno-attributes", "-Wno-maybe-uninitialized"]


def native_library() -> dict[str, Any]:
    """Return the setup() arguments that compile the library; empty if that is not possible.

    Without PyTorch or a compiler no kernels are compiled; a failed compilation is an error.
    """
    if KERNELS not in ("auto", "cuda", "cpu", "none"):
        raise SystemExit(f"FLOWMATCH_KERNELS must be auto, cuda, cpu or none, got {KERNELS!r}")
    if KERNELS == "none":
        return {}
    # pip's build isolation hides the target environment, but runs its interpreter.
    sys.path.append(sysconfig.get_path("purelib"))
    try:
        import torch
        from torch.utils import cpp_extension as cpp
    except ModuleNotFoundError:
        return without("no PyTorch in the environment that flowmatch is installed into")
    if not shutil.which(shlex.split(os.environ.get("CXX") or "c++")[0]):
        return without("no C++ compiler")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11):
        return without(f"torch {torch.__version__} is older than 2.11")
    cuda = KERNELS != "cpu" and torch.version.cuda is not None and cpp.CUDA_HOME is not None
    if KERNELS == "cuda" and not cuda:
        return without("either a CPU-only PyTorch or no CUDA toolkit (CUDA_HOME)")
    if cuda and torch.cuda.device_count() == 0:
        # By default torch compiles for the GPUs of this machine, and fails without one.
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "7.5;8.0;9.0+PTX")
    sources = [*Path("csrc").rglob("*.cpp"), *(Path("csrc").rglob("*.cu") if cuda else [])]
    headers = [path for kind in ("h", "inc", "cuh") for path in Path("csrc").rglob(f"*.{kind}")]
    # Error messages name source files: without the folders of the machine that compiled them.
    here, headers_of_torch = Path.cwd(), Path(torch.__file__).parent / "include"
    relative = [f"-ffile-prefix-map={folder}/=" for folder in (here, headers_of_torch)]
    library = (cpp.CUDAExtension if cuda else cpp.CppExtension)(
        "flowmatch._C",
        sorted(map(str, sources)),
        depends=sorted(map(str, headers)),
        define_macros=[("FLOWMATCH_CUDA", None), ("USE_CUDA", None)] if cuda else [],
        extra_compile_args={
            "cxx": CXX + relative,
            "nvcc": ["-O3", "-std=c++17", *(f"-Xcompiler={flag}" for flag in relative)],
        },
        py_limited_api=True,
    )
    return {
        "ext_modules": [library],
        "cmdclass": {"build_ext": cpp.BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def without(reason: str) -> dict[str, Any]:
    """Fall back to the references, unless FLOWMATCH_KERNELS demands kernels."""
    if KERNELS != "auto":
        raise SystemExit(f"FLOWMATCH_KERNELS={KERNELS} cannot be met: {reason}; see README.md")
    print(f"flowmatch: no kernels are compiled ({reason}); the references will be used")
    return {}


setup(**native_library())
