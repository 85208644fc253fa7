"""Losses of pairs of descriptors ``[N, D]``: row `i` of both is the same point, all others not.

Tuples for any labels and their losses are elsewhere; here a batch is one matrix of distances, which
is all that descriptors of patches are trained with.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.ops._types import widened

MINING = ("hardest", "semihard", "distance-weighted")

_FAR = 1e4  # beyond any distance of unit vectors
_NEAREST_WEIGHED = 0.5  # distance-weighted: closer negatives would only give noise


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Return all l2 distances ``[N, M]`` of rows, with a gradient that stays finite at 0.

    Half types are computed in float32, also under autocast.

    Args:
        first: ``[N, D]``.
        second: ``[M, D]``.

    Example:
        >>> distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])).round().tolist()
        [[5.0]]
    """
    first, second = widened(first), widened(second)
    with torch.autocast(first.device.type, enabled=False):  # in half, 1e-8 is 0
        lengths = first.square().sum(1)[:, None] + second.square().sum(1)[None]
        return ((lengths - 2 * first @ second.T).clamp_min(0) + 1e-8).sqrt()


def triplet_loss(
    first: Tensor,
    second: Tensor,
    same: Tensor,
    *,
    margin: float = 1.0,
    mining: str = "hardest",
    second_order: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Ask of each pair that its distance plus a margin is below that of a negative of the batch.

    Args:
        first: Descriptors ``[N, D]`` of unit length.
        second: Descriptors of the same points.
        same: ``[N, N]`` bool, where rows must not be negatives of each other; with the diagonal.
        margin: Of the hinge.
        mining: Which negative: ``"hardest"``, the closest, of either side; ``"semihard"``, the
            closest that is farther than the positive; ``"distance-weighted"``, drawn so that all
            distances are as likely.
        second_order: Weight of `second_order_similarity`.

    Returns:
        The mean loss, and the distances ``[N]`` of positives to each other and ``[N]`` to their
        negatives, stacked to ``[2, N]`` without gradients.

    Raises:
        ValueError: There is no such mining.

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
    others = distance.masked_fill(same, _FAR)
    if mining == "hardest":
        negative = torch.minimum(others.amin(dim=0), others.amin(dim=1))
    elif mining == "semihard":
        beyond = others.masked_fill(others <= positive[:, None], _FAR)
        # Where all are closer than the positive, the farthest of them.
        none = beyond.amin(dim=1) >= _FAR
        negative = torch.where(none, distance.masked_fill(same, 0).amax(dim=1), beyond.amin(dim=1))
    else:
        index = _draw(others.detach(), first.shape[1])
        negative = others.gather(1, index[:, None])[:, 0]
    loss = (margin + positive - negative).clamp_min(0).mean()
    if second_order:
        loss = loss + second_order * second_order_similarity(first, second, same)
    return loss, torch.stack([positive, negative]).detach()


def _draw(distance: Tensor, dim: int) -> Tensor:
    """Draw a column of each row, by the inverse of how often random unit vectors are that far."""
    d = distance.clamp(_NEAREST_WEIGHED, 2 - 1e-3)
    weight = (2 - dim) * d.log() - (dim - 3) / 2 * (1 - d.square() / 4).log()
    weight = weight.masked_fill(distance >= _FAR, -torch.inf)
    # One that is masked everywhere takes any: its distance is beyond all margins.
    weight = weight.masked_fill(weight.isneginf().all(dim=1, keepdim=True), 0)
    return weight.softmax(dim=1).multinomial(1)[:, 0]


def second_order_similarity(
    first: Tensor, second: Tensor, same: Tensor, *, neighbours: int = 8
) -> Tensor:
    """Ask that neighbours of a point are as far from it in one view as in the other.

    Args:
        first: Descriptors ``[N, D]``.
        second: Of the same points.
        same: ``[N, N]`` bool, rows that do not count as neighbours; with the diagonal.
        neighbours: How many of each point count, if they are so in either view.

    Returns:
        The mean over points of the root of the summed squared differences.

    Reference:
        Tian et al., SOSNet, CVPR 2019, section 3.
    """
    within_first, within_second = distances(first, first), distances(second, second)
    count = min(neighbours, len(first))
    near = torch.zeros_like(same)
    for within in (within_first, within_second):
        closest = within.detach().masked_fill(same, _FAR).topk(count, largest=False).indices
        near.scatter_(1, closest, True)
    difference = (within_first - within_second).masked_fill(same | ~near, 0)
    return (difference.square().sum(dim=1) + 1e-8).sqrt().mean()


def contrastive_loss(
    first: Tensor, second: Tensor, same: Tensor, *, margin: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Pull pairs together and push each one's closest negative beyond a margin, by squares.

    Args:
        first: Descriptors ``[N, D]``.
        second: Of the same points.
        same: ``[N, N]`` bool, rows that must not be negatives; with the diagonal.
        margin: How far negatives have to be.

    Returns:
        As `triplet_loss`.

    Reference:
        Hadsell et al., Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006.
    """
    distance = distances(first, second)
    positive = distance.diagonal()
    negative = distance.masked_fill(same, _FAR).amin(dim=1)
    loss = (positive.square() + (margin - negative).clamp_min(0).square()).mean() / 2
    return loss, torch.stack([positive, negative]).detach()


def hinge_loss(similarity: Tensor, alike: Tensor) -> Tensor:
    """Return the mean of ``max(0, 1 - y s)``, y being 1 for patches of one point, -1 for others.

    Args:
        similarity: ``[N]``, a network's.
        alike: ``[N]`` bool.

    Example:
        >>> hinge_loss(torch.tensor([2.0, 0.5, 0.5]), torch.tensor([True, True, False])).item()
        0.6666666865348816

    Reference:
        Zagoruyko and Komodakis, CVPR 2015, equation 1; its l2 term is the optimiser's.
    """
    sign = alike.to(similarity.dtype) * 2 - 1
    return F.relu(1 - sign * similarity).mean()
