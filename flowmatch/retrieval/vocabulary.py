"""Visual words: k-means, and VLAD, the residuals of local descriptors to their words."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.ops import nearest

_ROUNDS = 25


def kmeans(points: Tensor, k: int, *, seed: int = 0, rounds: int = _ROUNDS) -> Tensor:
    """Cluster points; the same seed gives the same centres.

    Args:
        points: ``[N, D]`` floats, N at least `k`.
        k: Number of centres.
        seed: Random seed of the initial centres (k-means++).
        rounds: Maximum number of iterations; the algorithm stops when no point changes its cluster.

    Returns:
        Centres ``[k, D]``. An empty cluster restarts at the point that is farthest from its centre.

    Raises:
        ValueError: There are fewer points than centres, or points are not finite.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> kmeans(points, 2).sort(0).values.tolist()
        [[0.5], [10.5]]

    Reference:
        Lloyd, IEEE Transactions on Information Theory 1982; k-means++: Arthur and Vassilvitskii,
        SODA 2007.
    """
    if points.dim() != 2 or not 1 <= k <= len(points):
        raise ValueError(f"expected at least k = {k} > 0 points [N, D], got {list(points.shape)}")
    if not points.isfinite().all():
        raise ValueError("points must be finite")
    centres = _first_centres(points, k, seed)
    previous: Tensor | None = None
    for _ in range(rounds):
        neighbours = nearest(points, centres)
        word, distance = neighbours.index[:, 0], neighbours.distance[:, 0]
        if previous is not None and torch.equal(word, previous):
            break
        previous = word
        sums = torch.zeros_like(centres).index_add_(0, word, points)
        counts = torch.bincount(word, minlength=k)
        centres = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            centres[empty] = points[distance.argsort(descending=True)[: len(empty)]]
    return centres


def _first_centres(points: Tensor, k: int, seed: int) -> Tensor:
    """Sample centres with probabilities proportional to squared distances from earlier centres."""
    generator = torch.Generator().manual_seed(
        seed
    )  # on the CPU, so that every device samples the same
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distance = (points - points[chosen[0]]).square().sum(1)
    for _ in range(k - 1):
        total = distance.double().cumsum(0)
        threshold = torch.rand(1, generator=generator, dtype=torch.float64).to(total) * total[-1]
        index = int(torch.searchsorted(total, threshold).clamp(max=len(points) - 1))
        chosen.append(index)
        distance = torch.minimum(distance, (points - points[index]).square().sum(1))
    return points[chosen]


def vlad(descriptors: Tensor, words: Tensor) -> Tensor:
    """Aggregate the local descriptors of an image: their residuals to the nearest visual words.

    The residuals of each word are summed and normalised, so that a repeated pattern does not
    outweigh the rest (intra-normalisation); then the whole vector is normalised.

    Args:
        descriptors: ``[N, D]`` of one image; N may be 0.
        words: ``[K, D]`` from `kmeans`.

    Returns:
        ``[K * D]`` of unit length; zeros without descriptors.

    Raises:
        ValueError: The shapes do not fit.

    Example:
        >>> words = torch.tensor([[0.0, 0.0], [9.0, 9.0]])
        >>> vlad(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), words).tolist()
        [1.0, 0.0, 0.0, 0.0]

    Reference:
        Jegou et al., Aggregating Local Descriptors into a Compact Image Representation, CVPR 2010;
        Arandjelovic and Zisserman, All about VLAD, CVPR 2013.
    """
    if descriptors.dim() != 2 or words.dim() != 2 or descriptors.shape[1] != words.shape[1]:
        shapes = f"{list(descriptors.shape)} and {list(words.shape)}"
        raise ValueError(f"expected descriptors [N, D] and words [K, D], got {shapes}")
    sums = torch.zeros_like(words)
    if len(descriptors):
        word = nearest(descriptors, words).index[:, 0]
        assigned = word >= 0
        word, descriptors = word[assigned], descriptors[assigned]
        sums.index_add_(0, word, descriptors - words[word])
    return F.normalize(F.normalize(sums, dim=1).flatten(), dim=0)
