"""The ranking loss of patches from videos."""

import torch
import torch.nn.functional as F
from torch import Tensor

HARDEST = 4  # hard negatives are drawn among so many


def ranking_loss(
    first: Tensor,
    second: Tensor,
    different: Tensor,
    hard: bool,
    *,
    margin: float = 0.5,
    negatives: int = 4,
) -> tuple[Tensor, Tensor]:
    """Ask that two patches of a track are closer to each other than to patches of other things.

    ``mean max(0, d(a, p) - d(a, n) + m)``, d being 1 minus the cosine. Both ends of a pair are
    anchors; each has so many negatives, drawn among the ends of the others' pairs that certainly
    show something else. If `hard`, half of them are drawn among the four closest instead.

    Args:
        first: Embeddings ``[N, D]``, of any length but 0.
        second: Of other patches of the same tracks.
        different: ``[N, N]`` bool, symmetric: which tracks certainly show two things.
        hard: Whether half of the negatives are hard ones; after some epochs.
        margin: ``m``.
        negatives: Of each anchor.

    Returns:
        The loss, 0 where a batch has nothing to compare, and the share of triplets that are in the
        wrong order, without gradients.

    Raises:
        ValueError: Shapes do not fit, or `negatives` is not positive.

    Example:
        >>> x = torch.eye(2)
        >>> loss, wrong = ranking_loss(x, x, ~torch.eye(2, dtype=torch.bool), hard=False)
        >>> loss.item(), wrong.item()  # distances 0 and 1
        (0.0, 0.0)

    Reference:
        Wang & Gupta, ICCV 2015, section 4.2, equation 3; which negatives are drawn, and both ends
        as anchors, as in their published code, whose margin is 1 where the paper has 0.5.
    """
    N = len(first)
    if first.shape != second.shape or different.shape != (N, N) or negatives < 1:
        raise ValueError(
            "first and second must be [N, D], different [N, N] and negatives positive, got "
            f"{tuple(first.shape)}, {tuple(second.shape)}, {tuple(different.shape)}, {negatives}"
        )
    ends = F.normalize(torch.cat([first, second]).float(), dim=1)
    cosine = ends @ ends.T
    order = torch.arange(2 * N, device=ends.device)
    near = cosine[order, (order + N) % (2 * N)]
    allowed = different.repeat(2, 2)
    index = _draw(cosine.detach(), allowed, negatives, hard)
    # Hinge of the difference of distances, which is that of cosines reversed.
    violation = cosine.gather(1, index) - near[:, None]
    counts = allowed.gather(1, index).to(cosine.dtype)  # an anchor without any has drawn nonsense
    total = counts.sum().clamp(min=1)
    loss = ((violation + margin).clamp(min=0) * counts).sum() / total
    return loss, ((violation >= 0) * counts).sum().detach() / total


def _draw(cosine: Tensor, allowed: Tensor, count: int, hard: bool) -> Tensor:
    """Columns of each row, [2N, count], at random among those allowed, half of them hard."""
    M = len(cosine)
    chance = torch.rand(M, M, device=cosine.device)
    score = torch.where(allowed, chance, -1.0)
    if not hard:
        return _best(score, count)
    closest = cosine.masked_fill(~allowed, -2.0).topk(min(HARDEST, M), dim=1).indices
    among = torch.zeros_like(allowed).scatter_(1, closest, True) & allowed
    return torch.cat(
        [
            _best(torch.where(among, chance, -1.0), count - count // 2),
            _best(torch.where(among, -1.0, score), count // 2),
        ],
        dim=1,
    )


def _best(score: Tensor, count: int) -> Tensor:
    return score.topk(min(count, len(score)), dim=1).indices
