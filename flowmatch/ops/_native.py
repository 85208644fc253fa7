"""Load the compiled kernels, and say which kernel of an op a device runs."""

import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_warned: set[str] = set()


class KernelsMissing(UserWarning):
    """The pure-PyTorch reference of an op runs where a compiled kernel was expected."""


def load_library(folder: Path) -> str | None:
    """Load ``_C*.so`` from `folder`, over the references; return what went wrong, or None."""
    libraries = sorted(folder.glob("_C*.so"))
    if not libraries:
        return "flowmatch was installed without compiled kernels"
    try:
        torch.ops.load_library(libraries[0])  # type: ignore[no-untyped-call]
    except OSError as error:
        return _explain(libraries[0], str(error))
    return None


def _explain(library: Path, reason: str) -> str:
    """Turn a loader's complaint into what the reader should do."""
    if "libtorch_cuda" in reason or "libcudart" in reason or "libc10_cuda" in reason:
        return (
            f"{library.name} was compiled for CUDA, but torch {torch.__version__} here has no "
            f"matching CUDA libraries ({reason}); reinstall flowmatch with this torch installed"
        )
    return (
        f"{library.name} does not load into torch {torch.__version__} ({reason}); flowmatch needs "
        "torch >= 2.11, reinstall it with this torch installed"
    )


def reference(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap an op's reference, so that it says so when the dispatcher has nothing better."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(a.device.type for a in args if isinstance(a, Tensor))
        if device not in _warned:
            _warned.add(device)
            why = _problem or f"this build of flowmatch has no {device} kernels"
            warnings.warn(
                f"{why}: on {device} the slow references run", KernelsMissing, stacklevel=2
            )
        return function(*args, **kwargs)

    return call


def active_kernel(op: str, device: str) -> str:
    """Return ``"compiled"`` or ``"reference"``: what runs `op` for tensors on `device`.

    Args:
        op: Name of the op, such as ``"correlation"``.
        device: ``"cpu"`` or ``"cuda"``.
    """
    has = torch._C._dispatch_has_kernel_for_dispatch_key(f"flowmatch::{op}", device.upper())
    return "compiled" if has else "reference"


def kernels_problem() -> str | None:
    """Say why there are no compiled kernels, or None when they are loaded."""
    return _problem


_problem = load_library(Path(__file__).parent.parent)
