"""The type that an op or a loss computes in."""

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return what values of `dtype` are summed in: half types in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widened(values: Tensor) -> Tensor:
    """Return half types as float32, which squares and exponentials need; others as they are.

    Example:
        >>> widened(torch.ones(1, dtype=torch.float16)).dtype
        torch.float32
    """
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
