"""Loading of the compiled kernels, and which kernel of an op runs on a device."""

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
    """Warning: the pure-PyTorch reference of an op runs instead of a compiled kernel."""


def load_library(folder: Path) -> str | None:
    """Load ``_C*.so``, on Windows ``_C*.pyd``, from `folder`.

    Returns:
        A description of the problem, or None.
    """
    libraries = sorted(p for p in folder.glob("_C*") if p.suffix in (".so", ".pyd"))
    if not libraries:
        return "flowmatch was installed without compiled kernels"
    try:
        torch.ops.load_library(libraries[0])  # type: ignore[no-untyped-call]
    except OSError as error:
        return _explain(libraries[0], str(error))
    return None


def _explain(library: Path, reason: str) -> str:
    """Turn the loader's error message into advice for the user."""
    if "libtorch_cuda" in reason or "libcudart" in reason or "libc10_cuda" in reason:
        return (
            f"{library.name} was compiled for CUDA, but torch {torch.__version__} here has no "
            f"matching CUDA libraries ({reason}); reinstall flowmatch with this torch installed"
        )
    return (
        f"{library.name} does not load into torch {torch.__version__} ({reason}); the compiled "
        "kernels need torch >= 2.11"
    )


def reference(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap an op's reference in a function that warns once per device that it is slow."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(a.device.type for a in args if isinstance(a, Tensor))
        if device not in _warned:
            _warned.add(device)
            reason = _problem or f"this build of flowmatch has no {device} kernels"
            warnings.warn(
                f"{reason}: on {device} the slow references run", KernelsMissing, stacklevel=2
            )
        return function(*args, **kwargs)

    return call


def active_kernel(op: str, device: str) -> str:
    """Return which implementation of `op` runs on `device`: ``"compiled"`` or ``"reference"``.

    Args:
        op: Name of the op, such as ``"correlation"``.
        device: ``"cpu"`` or ``"cuda"``.
    """
    has = torch._C._dispatch_has_kernel_for_dispatch_key(f"flowmatch::{op}", device.upper())
    return "compiled" if has else "reference"


def kernels_problem() -> str | None:
    """Return the reason why no compiled kernels are loaded, or None if they are."""
    return _problem


_problem = load_library(Path(__file__).parent.parent)
