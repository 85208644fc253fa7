"""Types that ops and losses compute in."""

import torch
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}  # types of devices


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type that values of `dtype` are summed in: float32 for half types."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def finest(device: torch.device) -> torch.dtype:
    """Return the most precise type that `device` computes in: float64, but float32 on MPS."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def widened(values: Tensor) -> Tensor:
    """Convert half types to float32, as squares and exponentials need; return others unchanged.

    Example:
        >>> widened(torch.ones(1, dtype=torch.float16)).dtype
        torch.float32
    """
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
