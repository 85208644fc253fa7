"""Queries that take up what they found, and pictures that take up their neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.ops import nearest


def expand_queries(
    queries: Tensor, reference: Tensor, k: int = 10, *, alpha: float = 0.0
) -> Tensor:
    """Add to each query what is nearest to it, to be searched for again.

    Args:
        queries: ``[N, D]`` of length 1.
        reference: ``[M, D]`` of length 1.
        k: How many of the nearest to add; 0 adds none.
        alpha: Each counts with its similarity to this power: 0 is average query expansion, 3 what
            the authors of alpha-QE take. What is not similar (0 or less) counts only for alpha 0.

    Returns:
        ``[N, D]`` of length 1.

    Raises:
        ValueError: `k` or `alpha` is negative.

    Example:
        >>> reference = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        >>> expand_queries(torch.tensor([[1.0, 0.0]]), reference, k=1)
        tensor([[0.7071, 0.7071]])

    Reference:
        Chum et al., Total Recall, ICCV 2007; alpha-QE: Radenovic et al., PAMI 2019, section 5.2.
    """
    return _mixed(queries, reference, k, alpha, queries)


def augment_database(reference: Tensor, k: int = 10, *, alpha: float = 0.0) -> Tensor:
    """Replace each descriptor of a database by its mean with its neighbours.

    Args:
        reference: ``[M, D]`` of length 1.
        k: How many neighbours, besides itself; 0 changes nothing.
        alpha: As in `expand_queries`.

    Returns:
        ``[M, D]`` of length 1.

    Raises:
        ValueError: `k` or `alpha` is negative.

    Example:
        >>> augment_database(torch.eye(2), k=1)
        tensor([[0.7071, 0.7071],
                [0.7071, 0.7071]])

    Reference:
        Turcot and Lowe, Better Matching with Fewer Features, ICCV workshops 2009; Arandjelovic and
        Zisserman, CVPR 2012.
    """
    # Each is its own nearest, and so counts once, as a query does.
    return _mixed(reference, reference, k + 1, alpha, torch.zeros_like(reference))


def _mixed(queries: Tensor, reference: Tensor, k: int, alpha: float, start: Tensor) -> Tensor:
    if k < 0 or alpha < 0:
        raise ValueError(f"k and alpha must not be negative, got {k} and {alpha}")
    k = min(k, len(reference))
    if k == 0:
        return queries
    found = nearest(queries, reference, k, "dot")
    weight = found.distance.clamp(min=0).pow(alpha) if alpha else torch.ones_like(found.distance)
    weight = torch.where(found.index >= 0, weight, 0)
    added = (reference[found.index.clamp(min=0)] * weight[..., None]).sum(1)
    return F.normalize(start + added, dim=1)
