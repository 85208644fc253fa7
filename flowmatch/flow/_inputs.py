"""The images and networks that users give, as what computations take."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowmatch.devices import choose_device
from flowmatch.flow.networks.padding import SMALLEST
from flowmatch.flow.store import load
from flowmatch.zoo import check_float32


def network_of(model: str | Path | nn.Module, device: str | torch.device | None) -> nn.Module:
    """Return the network that a user named, gave as a file, or made.

    Raises:
        ValueError: No such weights ship, or a given network is not float32.
        FileNotFoundError: The file of weights does not exist.
    """
    if not isinstance(model, nn.Module):
        return load(model, device=device)
    check_float32(model)
    return model if device is None else model.to(choose_device(device))


def module_device(network: nn.Module) -> torch.device:
    """Return the device of a network; the CPU for one without parameters."""
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def to_tensors(first: Any, second: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Convert two images, or two batches, to RGB in [0, 1], ``[B, 3, H, W]``.

    Raises:
        ValueError: They differ in kind or size, are too small, or have the wrong type or range.
    """
    if not isinstance(first, Tensor) and not isinstance(second, Tensor):
        first, second = np.asarray(first), np.asarray(second)
    check_alike(first, second)
    return _to_tensor(first, "first", device), _to_tensor(second, "second", device)


def check_alike(first: Any, second: Any) -> None:
    """Check that two images, or two batches, are of one kind and shape.

    Raises:
        ValueError: They are not.
    """
    shapes = np.shape(first), np.shape(second)
    if isinstance(first, Tensor) is not isinstance(second, Tensor) or shapes[0] != shapes[1]:
        raise ValueError(
            "first and second must be of one kind and shape, got "
            f"{type(first).__name__} {tuple(shapes[0])} and "
            f"{type(second).__name__} {tuple(shapes[1])}"
        )


def _to_tensor(image: Any, name: str, device: torch.device) -> Tensor:
    """Convert an image or a batch to RGB in [0, 1], ``[B, 3, H, W]``."""
    if isinstance(image, Tensor):
        tensor = image
    else:
        array = image[..., None] if image.ndim == 2 else image
        tensor = torch.from_numpy(np.ascontiguousarray(array)).unsqueeze(0)
        tensor = tensor.permute(0, 3, 1, 2) if tensor.dim() == 4 else tensor
    if tensor.dim() != 4 or tensor.shape[1] not in (1, 3):
        raise ValueError(
            f"{name} must be [H, W, 3], [H, W, 1] or [H, W], or a tensor [B, 3, H, W] or "
            f"[B, 1, H, W], got {tuple(image.shape)}"
        )
    if min(tensor.shape[-2:]) < SMALLEST:
        raise ValueError(
            f"{name} must have at least {SMALLEST} pixels to a side, "
            f"got {tensor.shape[-1]} x {tensor.shape[-2]}"
        )
    tensor = tensor.to(device)
    if tensor.dtype == torch.uint8:
        tensor = tensor.float() / 255
    elif tensor.is_floating_point():
        tensor = tensor.float()
        low, high = (tensor.min().item(), tensor.max().item()) if tensor.numel() else (0.0, 0.0)
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{name} is float and must lie in [0, 1], got {low:g} to {high:g}")
    else:
        raise ValueError(f"{name} must be uint8 or float, got {tensor.dtype}")
    return tensor.expand(-1, 3, -1, -1)
