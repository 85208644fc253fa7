"""Whitening: directions in which descriptors differ without meaning are made to count less."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_RIDGE = 1e-6  # of the mean variance, so that few samples still give a matrix that can be inverted


class Whitening(NamedTuple):
    """A shift and a projection, and unit length after.

    Attributes:
        mean: ``[D]``.
        projection: ``[d, D]``, most important direction first.
    """

    mean: Tensor
    projection: Tensor

    def apply(self, descriptors: Tensor, dim: int | None = None) -> Tensor:
        """Whiten ``[N, D]`` to ``[N, dim]`` of length 1; `dim` None keeps all there are.

        Raises:
            ValueError: `dim` is out of range.
        """
        if dim is not None and not 1 <= dim <= len(self.projection):
            raise ValueError(f"dim must be in 1..{len(self.projection)}, got {dim}")
        centred = descriptors - self.mean.to(descriptors)
        return F.normalize(centred @ self.projection[:dim].to(descriptors).T, dim=1)


def pca_whitening(descriptors: Tensor, *, power: float = 1.0) -> Whitening:
    """Learn a PCA whitening, which needs no labels.

    Args:
        descriptors: ``[N, D]``, at least 2 of them.
        power: Of the standard deviation that is divided by: 1 whitens, 0 only rotates.

    Returns:
        The whitening, of ``min(D, N - 1)`` directions.

    Raises:
        ValueError: There are too few descriptors.

    Example:
        >>> samples = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> pca_whitening(samples * torch.tensor([9.0, 1.0, 3.0])).projection.abs().argmax(1)
        tensor([0, 2, 1])

    Reference:
        Jegou and Chum, Negative Evidences and Co-occurences in Image Retrieval: the Benefit of PCA
        and Whitening, ECCV 2012.
    """
    if descriptors.dim() != 2 or len(descriptors) < 2:
        raise ValueError(f"expected descriptors [N > 1, D], got {list(descriptors.shape)}")
    samples = descriptors.double()
    mean = samples.mean(0)
    _, sizes, directions = torch.linalg.svd(samples - mean, full_matrices=False)
    kept = min(samples.shape[1], len(samples) - 1)
    deviation = sizes[:kept] / (len(samples) - 1) ** 0.5
    smallest = max(float(deviation[0]) * 1e-6, 1e-12) if kept else 1.0
    projection = directions[:kept] / deviation.clamp(min=smallest)[:, None].pow(power)
    return Whitening(mean.to(descriptors), projection.to(descriptors))


def learned_whitening(
    descriptors: Tensor, queries: Tensor, positives: Tensor, *, ridge: float = _RIDGE
) -> Whitening:
    """Learn a whitening from pairs that match: what differs within pairs counts less.

    The differences of pairs are whitened, and then the descriptors rotated to their main
    directions, so that dimensions may be cut off at the end.

    Args:
        descriptors: ``[N, D]``.
        queries: ``[P]`` int64, of each pair the one.
        positives: ``[P]`` int64, and the other.
        ridge: Added to the variances within pairs, in means of them: with fewer pairs than numbers
            in a descriptor, something like D / P.

    Returns:
        The whitening, of D directions. Its mean is that of the queries.

    Raises:
        ValueError: Shapes do not fit, or there is no pair.

    Example:
        >>> noise = torch.Generator().manual_seed(0)
        >>> things = torch.randn(200, 2, generator=noise).repeat(2, 1)
        >>> seen = things + torch.randn(400, 2, generator=noise) * torch.tensor([3.0, 0.1])
        >>> half = torch.arange(200)
        >>> int(learned_whitening(seen, half, half + 200).projection[0].abs().argmax())
        1

    Reference:
        Mikolajczyk and Matas, ICCV 2007, as Radenovic et al., PAMI 2019, section 3.4, use it;
        Cholesky in place of the square root, which is the same up to a rotation.
    """
    if descriptors.dim() != 2 or queries.shape != positives.shape or queries.dim() != 1:
        came = [list(t.shape) for t in (descriptors, queries, positives)]
        raise ValueError(f"expected descriptors [N, D] and indices [P] twice, got {came}")
    if len(queries) == 0:
        raise ValueError("expected at least one pair that matches, got none")
    samples = descriptors.double()
    mean = samples[queries].mean(0)
    differences = samples[queries] - samples[positives]
    spread = differences.T @ differences / len(differences)
    least = ridge * float(spread.diagonal().mean()) + 1e-12
    eye = torch.eye(len(spread), dtype=spread.dtype, device=spread.device)
    inner = torch.linalg.inv(torch.linalg.cholesky(spread + least * eye))
    moved = (samples - mean) @ inner.T
    _, directions = torch.linalg.eigh(moved.T @ moved / len(moved))  # smallest first
    projection = directions.flip(1).T @ inner
    return Whitening(mean.to(descriptors), projection.to(descriptors))
