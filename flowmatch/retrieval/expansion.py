"""Query expansion and database augmentation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.ops import nearest


def expand_queries(
    queries: Tensor, reference: Tensor, k: int = 10, *, alpha: float = 0.0
) -> Tensor:
    """Average each query with its nearest neighbours, for a second search.

    Args:
        queries: ``[N, D]`` of unit length.
        reference: ``[M, D]`` of unit length.
        k: Number of neighbours to add; 0 adds none.
        alpha: Exponent of similarities as weights: 0 is average query expansion, 3 the choice of
            the authors of alpha-QE. Neighbours with a similarity of 0 or less count for alpha 0
            only.

    Returns:
        ``[N, D]`` of unit length.

    Raises:
        ValueError: `k` or `alpha` is negative.

    Example:
        >>> reference = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        >>> expand_queries(torch.tensor([[1.0, 0.0]]), reference, k=1)
        tensor([[0.7071, 0.7071]])

    Reference:
        Chum et al., Total Recall, ICCV 2007; alpha-QE: Radenovic et al., PAMI 2019, section 5.2.
    """
    return _average(queries, reference, k, alpha, queries)


def augment_database(reference: Tensor, k: int = 10, *, alpha: float = 0.0) -> Tensor:
    """Replace each descriptor of a database by its mean with its neighbours.

    Args:
        reference: ``[M, D]`` of unit length.
        k: Number of neighbours besides the descriptor itself; 0 changes nothing.
        alpha: Exponent of similarities as weights, see `expand_queries`.

    Returns:
        ``[M, D]`` of unit length.

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
    # Each descriptor is its own nearest neighbour, and so counts once, as a query does.
    return _average(reference, reference, k + 1, alpha, torch.zeros_like(reference))


def _average(queries: Tensor, reference: Tensor, k: int, alpha: float, start: Tensor) -> Tensor:
    if k < 0 or alpha < 0:
        raise ValueError(f"k and alpha must not be negative, got {k} and {alpha}")
    k = min(k, len(reference))
    if k == 0:
        return queries
    similarity, index, *_ = nearest(queries, reference, k, "dot")
    weight = similarity.clamp(min=0).pow(alpha) if alpha else torch.ones_like(similarity)
    weight = torch.where(index >= 0, weight, 0)
    added = (reference[index.clamp(min=0)] * weight[..., None]).sum(1)
    return F.normalize(start + added, dim=1)
