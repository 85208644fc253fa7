"""Argument checks of the ops. `names` are the names of the tensors, such as "f1 and f2"."""

import functools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_metric(metric: str, metrics: Sequence[str]) -> None:
    """Raise a ValueError unless `metric` is one of `metrics`."""
    if metric not in metrics:
        raise ValueError(f"metric must be one of {', '.join(metrics)}, got {metric!r}")


def check_vectors(names: str, a: Tensor, b: Tensor) -> None:
    """Raise a ValueError unless both are (batches of) vectors of the same dimension."""
    fits = a.dim() in (2, 3) and a.dim() == b.dim() and a.shape[-1] == b.shape[-1]
    if not fits or a.shape[:-2] != b.shape[:-2]:
        raise ValueError(
            f"{names} must be [B, N, D] and [B, M, D], or [N, D] and [M, D], "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )


def autocast_is_on(a: Tensor) -> bool:
    """Return whether autocast is enabled on the device of `a`."""
    kind = a.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def check_floats(names: str, *tensors: Tensor) -> None:
    """Raise a ValueError unless all have the same type, one of `FLOATS`.

    While autocast is enabled the types may differ: `to_one_type` makes them equal.
    """
    kinds = {t.dtype for t in tensors}
    if not kinds <= set(FLOATS) or (len(kinds) > 1 and not autocast_is_on(tensors[0])):
        raise ValueError(
            f"{names} must have the same float type, got {_listed(t.dtype for t in tensors)} "
            "(float16, bfloat16, float32 and float64 are supported)"
        )


def to_one_type(*tensors: Tensor) -> list[Tensor]:
    """Convert tensors to the widest of their types; no copy of tensors that have it."""
    kind = functools.reduce(torch.promote_types, (t.dtype for t in tensors))
    return [t.to(kind) for t in tensors]


def check_devices(names: str, *tensors: Tensor) -> None:
    """Raise a ValueError unless all are dense tensors on the same device."""
    for t in tensors:
        if t.layout != torch.strided:
            raise ValueError(f"{names} must be dense tensors, got one of layout {t.layout}")
    if len({t.device for t in tensors}) > 1:
        devices = _listed(t.device for t in tensors)
        raise ValueError(f"{names} must be on the same device, got {devices}")


def _listed(items: Iterable[object]) -> str:
    words = [str(item) for item in items]
    return (" and " if len(words) == 2 else ", ").join(words)


def check_kernel(op: str, condition: bool, message: str) -> None:
    """Raise the RuntimeError that a compiled kernel raises, in functions that replace it."""
    torch._check(condition, lambda: f"{op}: {message}")  # type: ignore[no-untyped-call]


def check_kernel_float(op: str, a: Tensor) -> None:
    """Raise the RuntimeError of a compiled kernel unless `a` has one of the types of `FLOATS`."""
    check_kernel(op, a.dtype in FLOATS, "float16, bfloat16, float32 or float64 is needed")


def same_kind(a: Tensor, b: Tensor) -> bool:
    """Return whether both have the same type and device."""
    return a.dtype == b.dtype and a.device == b.device
