"""The type that an op computes in."""

import torch


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return what values of `dtype` are summed in: half types in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
