"""What the cosine distance is computed from: half the squared distance of directions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.ops._types import wide


def directions(vectors: Tensor, side: int) -> Tensor:
    """Scale to length 1 whatever the length was; 0 becomes a direction of its own on each side.

    That takes two more dimensions, in which all others are 0. What is not finite becomes NaN, and
    has no gradient.
    """
    padded = F.pad(vectors.to(wide(vectors.dtype)), (0, 2))
    largest = padded.detach().abs().amax(-1, keepdim=True)  # over it, squares are harmless
    usable = (largest > 0) & largest.isfinite()
    # What is not is put aside before it is divided: 0 times its derivative would be no number.
    safe = torch.where(usable, padded, 0) / torch.where(usable, largest, 1)
    places = torch.arange(padded.shape[-1], device=padded.device)
    alone = (places == vectors.shape[-1] + side).to(padded.dtype)
    instead = torch.where(largest == 0, alone, torch.nan)
    return torch.where(usable, F.normalize(safe, dim=-1), instead)
