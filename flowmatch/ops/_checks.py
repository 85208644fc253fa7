"""Argument checks of the ops. `names` are the names of the two tensors, such as "f1 and f2"."""

from collections.abc import Sequence

import torch
from torch import Tensor


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


def check_floats(names: str, a: Tensor, b: Tensor, autocasts: bool = False) -> None:
    """Raise a ValueError unless both have the same float type.

    With `autocasts`, types may differ while autocast is enabled, because it makes them equal.
    """
    same = a.dtype == b.dtype or (autocasts and autocast_is_on(a))
    if not (same and a.is_floating_point() and b.is_floating_point()):
        raise ValueError(f"{names} must have the same float type, got {a.dtype} and {b.dtype}")


def check_devices(names: str, a: Tensor, b: Tensor) -> None:
    """Raise a ValueError unless both are on the same device."""
    if a.device != b.device:
        raise ValueError(f"{names} must be on the same device, got {a.device} and {b.device}")
