"""Loading of the compiled kernels, and behaviour without them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import flowmatch
from flowmatch.ops import OPS, _native, active_kernel, kernels_problem

PACKAGE = Path(flowmatch.__file__).parent


def test_kernels_are_loaded():
    assert kernels_problem() is None
    assert active_kernel("correlation", "cpu") == "compiled"


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("key", ["MPS", "XPU", "PrivateUse1"])
def test_other_accelerators_run_the_references(op, key):
    name = f"flowmatch::{op}"
    assert not torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
    assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, key)


def test_importing_the_ops_does_not_import_dynamo():
    """torch._dynamo takes a second to import."""
    code = (
        "import sys, torch; before = 'torch._dynamo' in sys.modules; import flowmatch.ops; "
        "assert before or 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


WITHOUT = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import numpy as np, torch
    from flowmatch.flow import FlowNetC, estimate_flow
    from flowmatch.ops import KernelsMissing, active_kernel, correlation
    assert active_kernel("correlation", "cpu") == "reference"
    f1 = torch.randn(1, 4, 8, 8, requires_grad=True)
    for _ in range(2):
        correlation(f1, f1, 2, 1).sum().backward()
    frame = np.zeros((20, 20, 3), np.uint8)
    assert estimate_flow(frame, frame, model=FlowNetC(width=1 / 16)).shape == (20, 20, 2)
ours = [w for w in caught if issubclass(w.category, KernelsMissing)]
assert len(ours) == 1, ours
print(ours[0].message)
"""


def test_without_kernels_the_references_run_with_one_warning(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "flowmatch", ignore=shutil.ignore_patterns("_C*"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT], env=environment, cwd=tmp_path, capture_output=True
    )
    assert result.returncode == 0, result.stderr.decode()
    assert "without compiled kernels: on cpu the slow references run" in result.stdout.decode()


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("libtorch_cuda.so: cannot open shared object file", "was compiled for CUDA, but torch"),
        ("libcudart.so.13: cannot open shared object file", "was compiled for CUDA, but torch"),
        ("undefined symbol: torch_parallel_for", "kernels need torch >= 2.11"),
    ],
)
def test_a_library_that_does_not_load_is_explained(reason, expected):
    assert expected in _native._explain(Path("_C.abi3.so"), reason)


@pytest.mark.parametrize("name", ["_C.abi3.so", "_C.pyd"])  # as on Linux and on Windows
def test_a_broken_library_is_reported(name, tmp_path):
    (tmp_path / name).write_bytes(b"not a library")
    assert "does not load into torch" in _native.load_library(tmp_path)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"FLOWMATCH_KERNELS": "fast"}, "must be auto, cuda, cpu or none, got 'fast'"),
        ({"FLOWMATCH_KERNELS": "cuda", "CUDA_HOME": ""}, "FLOWMATCH_KERNELS=cuda cannot be met"),
        ({"FLOWMATCH_KERNELS": "cpu", "CXX": "no-such-compiler"}, "no C++ compiler"),
    ],
)
def test_requested_kernels_that_cannot_be_built_fail(environment, message):
    result = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=PACKAGE.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert message in result.stderr


def test_auto_builds_nothing_without_a_compiler():
    result = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=PACKAGE.parent,
        env={**os.environ, "FLOWMATCH_KERNELS": "auto", "CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0
    assert "no kernels are compiled (no C++ compiler)" in result.stdout


BUILDER = """
import os, runpy
import torch
from torch.utils import cpp_extension
torch.version.cuda, cpp_extension.CUDA_HOME = "12.8", "/usr/local/cuda"
torch.cuda.device_count = lambda: 0
runpy.run_path("setup.py")
flags = " ".join(cpp_extension._get_cuda_arch_flags())
assert "sm_75" in flags and "compute_90" in flags, flags
"""


def test_cuda_is_compiled_without_a_gpu():
    """Containers are built on machines without a GPU, from which torch takes architectures."""
    environment = {**os.environ, "FLOWMATCH_KERNELS": "cuda"}
    environment.pop("TORCH_CUDA_ARCH_LIST", None)
    result = subprocess.run(
        [sys.executable, "-c", BUILDER, "--version"],
        cwd=PACKAGE.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
