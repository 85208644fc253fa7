"""Whitening: uninformative directions of descriptors get less weight."""

from typing import NamedTuple

import torch
from torch import Tensor

from flowmatch.units import unit_vectors

_RIDGE = 1e-6  # relative to the mean variance; makes the matrix of few samples invertible


class Whitening(NamedTuple):
    """Affine map of descriptors, followed by normalisation to unit length.

    Attributes:
        mean: ``[D]``, subtracted first.
        projection: ``[d, D]``, the most important direction first.
    """

    mean: Tensor
    projection: Tensor

    def apply(self, descriptors: Tensor, dim: int | None = None) -> Tensor:
        """Whiten descriptors.

        Args:
            descriptors: ``[N, D]``.
            dim: Number of directions to keep; None keeps all.

        Returns:
            ``[N, dim]`` of unit length.

        Raises:
            ValueError: `dim` is out of range.
        """
        if dim is not None and not 1 <= dim <= len(self.projection):
            raise ValueError(f"dim must be in 1..{len(self.projection)}, got {dim}")
        centred = descriptors - self.mean.to(descriptors)
        return unit_vectors(centred @ self.projection[:dim].to(descriptors).T, dim=1)


def pca_whitening(descriptors: Tensor, *, power: float = 1.0) -> Whitening:
    """Learn a whitening by principal component analysis, without labels.

    Args:
        descriptors: ``[N, D]``, N at least 2.
        power: Exponent of the standard deviations by which components are divided: 1 whitens, 0
            only rotates.

    Returns:
        A whitening of ``min(D, N - 1)`` directions.

    Raises:
        ValueError: There are fewer than two descriptors.

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
    """Learn a whitening from matching pairs: directions that vary within pairs get less weight.

    The differences of pairs are whitened; then the descriptors are rotated to their principal
    directions, so that the last dimensions can be dropped.

    Args:
        descriptors: ``[N, D]``.
        queries: ``[P]`` int64, index of the first descriptor of each pair.
        positives: ``[P]`` int64, index of the second.
        ridge: Number added to the variances within pairs, relative to their mean; about D / P if
            there are fewer pairs than dimensions.

    Returns:
        A whitening of D directions, whose mean is that of the queries.

    Raises:
        ValueError: The shapes do not fit, or there is no pair.

    Example:
        >>> noise = torch.Generator().manual_seed(0)
        >>> objects = torch.randn(200, 2, generator=noise).repeat(2, 1)
        >>> views = objects + torch.randn(400, 2, generator=noise) * torch.tensor([3.0, 0.1])
        >>> half = torch.arange(200)
        >>> int(learned_whitening(views, half, half + 200).projection[0].abs().argmax())
        1

    Reference:
        Mikolajczyk and Matas, ICCV 2007, as Radenovic et al., PAMI 2019, section 3.4, use it;
        Cholesky instead of the square root, which is the same up to a rotation.
    """
    if descriptors.dim() != 2 or queries.shape != positives.shape or queries.dim() != 1:
        shapes = [list(t.shape) for t in (descriptors, queries, positives)]
        raise ValueError(f"expected descriptors [N, D] and indices [P] twice, got {shapes}")
    if len(queries) == 0:
        raise ValueError("expected at least one matching pair, got none")
    samples = descriptors.double()
    mean = samples[queries].mean(0)
    differences = samples[queries] - samples[positives]
    covariance = differences.T @ differences / len(differences)
    regulariser = ridge * float(covariance.diagonal().mean()) + 1e-12
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    inner = torch.linalg.inv(torch.linalg.cholesky(covariance + regulariser * eye))
    moved = (samples - mean) @ inner.T
    _, directions = torch.linalg.eigh(moved.T @ moved / len(moved))  # smallest first
    projection = directions.flip(1).T @ inner
    return Whitening(mean.to(descriptors), projection.to(descriptors))
