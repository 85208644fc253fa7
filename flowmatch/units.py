"""Unit vectors of embeddings and descriptors, with gradients that are finite at zero."""

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_LENGTH = 1e-12  # `F.normalize` does not scale vectors of this length or less to length 1


def unit_vectors(vectors: Tensor, dim: int = 1, least: float = LEAST_LENGTH) -> Tensor:
    """Scale vectors to length 1, by the values of `F.normalize`.

    Half types are computed in float32. A vector of length `least` or less has no direction and gets
    no gradient: that of `F.normalize` would be about ``1 / least`` times that of other vectors,
    more than an optimiser recovers from.

    Args:
        vectors: Vectors along `dim`, of any float type.
        dim: Dimension of the entries of a vector.
        least: Length at and below which a vector is divided by `least` instead of its length.

    Example:
        >>> x = torch.tensor([[0.0, 2.0], [0.0, 0.0]], requires_grad=True)
        >>> unit_vectors(x).sum().backward()
        >>> x.grad.tolist()
        [[0.5, 0.0], [0.0, 0.0]]
    """
    half = vectors.dtype in (torch.float16, torch.bfloat16)  # lengths overflow at 65504
    values = detach_zeros(vectors.float() if half else vectors, dim, least)
    return F.normalize(values, dim=dim, eps=least).to(vectors.dtype)


def detach_zeros(vectors: Tensor, dim: int = 1, least: float = LEAST_LENGTH) -> Tensor:
    """Return the same vectors, without gradients for those of length `least` or less.

    Args:
        vectors: Vectors along `dim`, of any float type.
        dim: Dimension of the entries of a vector.
        least: Largest length of a vector without a gradient.
    """
    constant = vectors.detach()
    length = torch.linalg.vector_norm(constant, dim=dim, keepdim=True)
    return torch.where(length <= least, constant, vectors)
