"""Unit vectors for the cosine distance, which is half of their squared distance."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.ops._types import wide


def directions(vectors: Tensor, side: int) -> Tensor:
    """Scale vectors of any length to length 1.

    Two dimensions are added, one for each `side` (0 or 1). A zero vector becomes the unit vector
    along the dimension of its side, orthogonal to all vectors of the other side. Vectors that are
    not finite become NaN and get no gradient.
    """
    padded = F.pad(vectors.to(wide(vectors.dtype)), (0, 2))
    largest = padded.detach().abs().amax(-1, keepdim=True)  # divided by it, squares cannot overflow
    usable = (largest > 0) & largest.isfinite()
    # Unusable vectors are replaced before the division: 0 times its derivative would be NaN.
    safe = torch.where(usable, padded, 0) / torch.where(usable, largest, 1)
    places = torch.arange(padded.shape[-1], device=padded.device)
    orthogonal = (places == vectors.shape[-1] + side).to(padded.dtype)
    replacement = torch.where(largest == 0, orthogonal, torch.nan)
    return torch.where(usable, F.normalize(safe, dim=-1), replacement)
