"""Losses of pairs of descriptors ``[N, D]``: row i of both sides describes the same point.

A batch of pairs is one matrix of distances, in which all pairs but the diagonal are negatives.
Losses of embeddings with class labels are in `flowmatch.metric_learning`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.ops import pairwise_distance
from flowmatch.ops._types import widened

MINING = ("hardest", "semihard", "distance-weighted")

_MASKED = 1e4  # beyond any distance of unit vectors
_MIN_WEIGHTED_DISTANCE = 0.5  # distance-weighted sampling: closer negatives give noisy gradients


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Return the l2 distances of all pairs of rows, ``[N, M]``.

    Half types are computed in float32, also under autocast. The gradient at distance 0 is 0.

    Args:
        first: Descriptors ``[N, D]``.
        second: Descriptors ``[M, D]``.

    Example:
        >>> distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])).tolist()
        [[5.0]]
    """
    with torch.autocast(first.device.type, enabled=False):
        return pairwise_distance(widened(first), widened(second))


def row_distances(first: Tensor, second: Tensor) -> Tensor:
    """Return the l2 distances of corresponding rows, ``[...]``.

    Half types are computed in float32. The gradient at distance 0 is 0.

    Args:
        first: Descriptors ``[..., D]``.
        second: Descriptors of a shape that broadcasts to `first`.

    Example:
        >>> row_distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])).tolist()
        [5.0]
    """
    result: Tensor = torch.linalg.vector_norm(widened(first) - widened(second), dim=-1)
    return result


# ---- Contrastive -------------------------------------------------------------------------------


def contrastive_terms(distance: Tensor, same: Tensor, *, margin: float = 1.0) -> Tensor:
    """Return ``1/2 [y d^2 + (1 - y) max(0, margin - d)^2]`` of each pair.

    Args:
        distance: Distances d of pairs, of any shape.
        same: Labels y, bool, of a shape that broadcasts to `distance`: whether a pair is positive.
        margin: Distance beyond which a negative costs nothing.

    Example:
        >>> contrastive_terms(torch.tensor([1.0, 0.5]), torch.tensor([True, False])).tolist()
        [0.5, 0.125]

    Reference:
        Hadsell, Chopra and LeCun, Dimensionality Reduction by Learning an Invariant Mapping, CVPR
        2006, equation 4.
    """
    return 0.5 * torch.where(same, distance.square(), F.relu(margin - distance).square())


def contrastive_loss(first: Tensor, second: Tensor, same: Tensor, *, margin: float = 1.0) -> Tensor:
    """Contrastive loss of labelled pairs: the mean of `contrastive_terms`.

    Args:
        first: Descriptors ``[N, D]``.
        second: Descriptor that each is paired with, ``[N, D]``.
        same: ``[N]`` bool, whether a pair shows the same point.
        margin: Distance beyond which a negative costs nothing.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> a = torch.zeros(2, 3)
        >>> contrastive_loss(a, a, torch.tensor([True, False]))
        tensor(0.2500)
    """
    check_pairs(first, second)
    if same.shape != first.shape[:1]:
        raise ValueError(f"same must be [{len(first)}], got {tuple(same.shape)}")
    return contrastive_terms(row_distances(first, second), same, margin=margin).mean()


def hardest_contrastive_loss(
    first: Tensor, second: Tensor, same: Tensor, *, margin: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Contrastive loss of each pair and of the pair's closest negative in the batch.

    Args:
        first: Descriptors ``[N, D]``.
        second: Descriptors of the same points.
        same: ``[N, N]`` bool, pairs that are not negatives; includes the diagonal.
        margin: Distance beyond which a negative costs nothing.

    Returns:
        The mean over pairs, and the distances ``[2, N]`` of the positives and of their negatives,
        without gradients.
    """
    distance = distances(first, second)
    positive = distance.diagonal()
    negative = distance.masked_fill(same, _MASKED).amin(dim=1)
    both = torch.stack([positive, negative])
    terms = contrastive_terms(
        both, both.new_tensor([[True], [False]], dtype=torch.bool), margin=margin
    )
    return terms.sum(dim=0).mean(), both.detach()


# ---- Triplets ----------------------------------------------------------------------------------


def triplet_loss(
    first: Tensor,
    second: Tensor,
    same: Tensor,
    *,
    margin: float = 1.0,
    mining: str = "hardest",
    second_order: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Triplet loss: the mean of ``max(0, margin + d(positive) - d(negative))``.

    Args:
        first: Descriptors ``[N, D]`` of unit length.
        second: Descriptors of the same points.
        same: ``[N, N]`` bool, pairs that are not negatives; includes the diagonal.
        margin: Margin of the hinge.
        mining: Choice of the negative: ``"hardest"``, the closest in the row or column of the
            pair; ``"semihard"``, the closest in the row that is farther than the positive;
            ``"distance-weighted"``, sampled from the row so that all distances are equally likely.
        second_order: Weight of `second_order_similarity`.

    Returns:
        The loss, and the distances ``[2, N]`` of the positives and of their negatives, without
        gradients.

    Raises:
        ValueError: `mining` is unknown.

    Example:
        >>> x = torch.eye(3)
        >>> loss, _ = triplet_loss(x, x, torch.eye(3, dtype=torch.bool))
        >>> round(loss.item(), 3)  # negatives are farther than the margin, positives coincide
        0.0

    Reference:
        Mishchuk et al., Working Hard to Know Your Neighbor's Margins, NIPS 2017; Schroff et al.,
        FaceNet, CVPR 2015 (semi-hard); Wu et al., Sampling Matters, ICCV 2017.
    """
    if mining not in MINING:
        raise ValueError(f"mining must be one of {', '.join(MINING)}, got {mining!r}")
    distance = distances(first, second)
    positive = distance.diagonal()
    candidates = distance.masked_fill(same, _MASKED)
    if mining == "hardest":
        negative = torch.minimum(candidates.amin(dim=0), candidates.amin(dim=1))
    elif mining == "semihard":
        semihard = candidates.masked_fill(candidates <= positive[:, None], _MASKED).amin(dim=1)
        # If all negatives are closer than the positive, the farthest of them is taken.
        farthest = distance.masked_fill(same, 0).amax(dim=1)
        negative = torch.where(semihard >= _MASKED, farthest, semihard)
    else:
        index = _sample_by_distance(candidates.detach(), first.shape[1])
        negative = candidates.gather(1, index[:, None])[:, 0]
    loss = F.relu(margin + positive - negative).mean()
    if second_order:
        loss = loss + second_order * second_order_similarity(first, second, same)
    return loss, torch.stack([positive, negative]).detach()


def _sample_by_distance(distance: Tensor, dim: int) -> Tensor:
    """Sample a column of each row, by the inverse density of distances of random unit vectors."""
    d = distance.clamp(_MIN_WEIGHTED_DISTANCE, 2 - 1e-3)
    weight = (2 - dim) * d.log() - (dim - 3) / 2 * (1 - d.square() / 4).log()
    weight = weight.masked_fill(distance >= _MASKED, -torch.inf)
    # A row without negatives samples any column: its distance is beyond all margins.
    weight = weight.masked_fill(weight.isneginf().all(dim=1, keepdim=True), 0)
    return weight.softmax(dim=1).multinomial(1)[:, 0]


def second_order_similarity(
    first: Tensor, second: Tensor, same: Tensor, *, neighbours: int = 8
) -> Tensor:
    """Second-order similarity loss: distances to neighbours should be equal on both sides.

    Args:
        first: Descriptors ``[N, D]``.
        second: Descriptors of the same points.
        same: ``[N, N]`` bool, pairs that are not neighbours; includes the diagonal.
        neighbours: Number of nearest neighbours of each point that count, on either side.

    Returns:
        The mean over points of the root of the summed squared differences.

    Reference:
        Tian et al., SOSNet, CVPR 2019, section 3.
    """
    within_first, within_second = distances(first, first), distances(second, second)
    count = min(neighbours, len(first))
    near = torch.zeros_like(same)
    for within in (within_first, within_second):
        closest = within.detach().masked_fill(same, _MASKED).topk(count, largest=False).indices
        near.scatter_(1, closest, True)
    difference = (within_first - within_second).masked_fill(same | ~near, 0)
    return (difference.square().sum(dim=1) + 1e-8).sqrt().mean()


# ---- Cross-entropy and hinge -------------------------------------------------------------------


def info_nce_loss(
    first: Tensor, second: Tensor, same: Tensor, *, temperature: float = 0.1
) -> Tensor:
    """InfoNCE loss: cross-entropy of choosing the right partner among the batch, on both sides.

    Args:
        first: Descriptors ``[N, D]`` of unit length.
        second: Descriptors of the same points.
        same: ``[N, N]`` bool, pairs that are not negatives; includes the diagonal.
        temperature: Divisor of the similarities.

    Returns:
        The mean of the cross-entropies over rows and over columns.

    Example:
        >>> info_nce_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.eye(2, dtype=torch.bool))
        tensor(0.6931)

    Reference:
        van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018; for
        scans: Xie et al., PointContrast, ECCV 2020.
    """
    a, b = widened(first), widened(second)
    diagonal = torch.eye(len(a), dtype=torch.bool, device=a.device)
    similarity = (a @ b.T / temperature).masked_fill(same & ~diagonal, -torch.inf)
    target = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


def hinge_loss(similarity: Tensor, same: Tensor) -> Tensor:
    """Return the mean of ``max(0, 1 - y s)``; y is 1 for patches of the same point, else -1.

    Args:
        similarity: Similarities s of pairs, ``[N]``.
        same: ``[N]`` bool, whether a pair shows the same point.

    Example:
        >>> hinge_loss(torch.tensor([2.0, 0.5, 0.5]), torch.tensor([True, True, False])).item()
        0.6666666865348816

    Reference:
        Zagoruyko and Komodakis, CVPR 2015, equation 1; its l2 term is the optimiser's weight decay.
    """
    sign = same.to(similarity.dtype) * 2 - 1
    return F.relu(1 - sign * similarity).mean()


def check_pairs(first: Tensor, second: Tensor) -> None:
    """Raise ValueError unless both are ``[N, D]`` of one shape."""
    if first.dim() != 2 or first.shape != second.shape:
        raise ValueError(
            f"descriptors must be two [N, D], got {tuple(first.shape)} and {tuple(second.shape)}"
        )
