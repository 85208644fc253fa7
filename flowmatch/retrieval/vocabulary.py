"""Visual words: k-means, and the residuals of local descriptors to their words (VLAD)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.ops import nearest

_ROUNDS = 25


def kmeans(points: Tensor, k: int, *, seed: int = 0, rounds: int = _ROUNDS) -> Tensor:
    """Find centres of clusters, the same ones for the same seed.

    Args:
        points: ``[N, D]`` floats, N at least `k`.
        k: How many centres.
        seed: Of the choice of the first centres (k-means++).
        rounds: At most; fewer where nothing moves any more.

    Returns:
        ``[k, D]``. A cluster that runs empty begins again at the point farthest from its centre.

    Raises:
        ValueError: There are fewer points than centres, or they are not finite.

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
    before: Tensor | None = None
    for _ in range(rounds):
        found = nearest(points, centres)
        word, distance = found.index[:, 0], found.distance[:, 0]
        if before is not None and torch.equal(word, before):
            break
        before = word
        sums = torch.zeros_like(centres).index_add_(0, word, points)
        counts = torch.bincount(word, minlength=k)
        centres = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            centres[empty] = points[distance.argsort(descending=True)[: len(empty)]]
    return centres


def _first_centres(points: Tensor, k: int, seed: int) -> Tensor:
    """Draw centres, each with a chance that grows with its squared distance to those before."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws everywhere
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distance = (points - points[chosen[0]]).square().sum(1)
    for _ in range(k - 1):
        total = distance.double().cumsum(0)
        mark = torch.rand(1, generator=generator, dtype=torch.float64).to(total) * total[-1]
        at = int(torch.searchsorted(total, mark).clamp(max=len(points) - 1))
        chosen.append(at)
        distance = torch.minimum(distance, (points - points[at]).square().sum(1))
    return points[chosen]


def vlad(descriptors: Tensor, words: Tensor) -> Tensor:
    """Describe a picture by how its local descriptors differ from their visual words.

    The residuals of a word are added and made of length 1, so that a pattern that repeats does not
    drown the rest (intra-normalisation); then the whole is.

    Args:
        descriptors: ``[N, D]`` of one picture; perhaps none.
        words: ``[K, D]``, of `kmeans`.

    Returns:
        ``[K * D]`` of length 1; zeros without descriptors.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> words = torch.tensor([[0.0, 0.0], [9.0, 9.0]])
        >>> vlad(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), words).tolist()
        [1.0, 0.0, 0.0, 0.0]

    Reference:
        Jegou et al., Aggregating Local Descriptors into a Compact Image Representation, CVPR 2010;
        Arandjelovic and Zisserman, All about VLAD, CVPR 2013.
    """
    if descriptors.dim() != 2 or words.dim() != 2 or descriptors.shape[1] != words.shape[1]:
        came = f"{list(descriptors.shape)} and {list(words.shape)}"
        raise ValueError(f"expected descriptors [N, D] and words [K, D], got {came}")
    sums = torch.zeros_like(words)
    if len(descriptors):
        word = nearest(descriptors, words).index[:, 0]
        known = word >= 0
        word, descriptors = word[known], descriptors[known]
        sums.index_add_(0, word, descriptors - words[word])
    return F.normalize(F.normalize(sums, dim=1).flatten(), dim=0)
