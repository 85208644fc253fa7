"""Metrics of alignment: PCK in two conventions, and the distance of a grid's points."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowmatch.align.transforms import corner_grid, transform_points


def pck(moved: Tensor, truth: Tensor, length: Tensor | float, alpha: float = 0.1) -> Tensor:
    """Return the percentage of correct keypoints: the share within ``alpha * length`` of the truth.

    Papers differ in the `length`, so their numbers are not comparable: see `pck_box` and
    `pck_scnet`.

    Args:
        moved: Transformed points, ``[B, N, 2]``.
        truth: True positions in the same unit; NaN for points that do not count.
        length: Reference length, ``[B]`` or a single one.
        alpha: Threshold as a share of the length.

    Returns:
        ``[B]`` in 0 to 1; NaN where no point counts.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> pck(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), torch.zeros(1, 2, 2), 10.0)
        tensor([0.5000])
    """
    if moved.dim() != 3 or moved.shape[-1] != 2 or moved.shape != truth.shape:
        raise ValueError(
            "points must be [B, N, 2] and of the same shape, "
            f"got {tuple(moved.shape)} and {tuple(truth.shape)}"
        )
    counts = truth.isfinite().all(-1)
    near = torch.linalg.vector_norm(moved - truth, dim=-1) <= alpha * _column(length, moved)
    share: Tensor = (near & counts).sum(-1) / counts.sum(-1)
    return share


def _column(length: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(length, dtype=like.dtype, device=like.device).reshape(-1, 1)


def pck_box(moved: Tensor, truth: Tensor, keypoints: Tensor, alpha: float = 0.1) -> Tensor:
    """Return the `pck` whose length is the longer side of the box around the keypoints.

    Args:
        moved: ``[B, N, 2]``.
        truth: The same.
        keypoints: Keypoints of the second image, ``[B, K, 2]``; NaN for missing ones.
        alpha: Threshold as a share of the box's longer side.

    Returns:
        ``[B]`` in 0 to 1.

    Example:
        >>> truth = torch.tensor([[[0.0, 0.0], [10.0, 5.0]]])
        >>> pck_box(truth + 0.7, truth, truth)  # within 1 of the truth
        tensor([1.])

    Reference:
        Ham et al., Proposal Flow, CVPR 2016 (PF-WILLOW); Rocco et al., CVPR 2017.
    """
    known = keypoints.isfinite()
    high = keypoints.masked_fill(~known, -torch.inf).amax(1)
    low = keypoints.masked_fill(~known, torch.inf).amin(1)
    return pck(moved, truth, (high - low).amax(-1), alpha)


def pck_scnet(moved: Tensor, truth: Tensor, size: tuple[int, int], alpha: float = 0.1) -> Tensor:
    """Return the `pck` in an image resized to 224 x 224, with length 224.

    Args:
        moved: ``[B, N, 2]`` in pixels.
        truth: The same.
        size: Height and width of the second image.
        alpha: Threshold as a share of the side.

    Returns:
        ``[B]`` in 0 to 1.

    Example:
        >>> truth = torch.zeros(1, 1, 2)
        >>> pck_scnet(truth + torch.tensor([30.0, 0.0]), truth, (100, 400))
        tensor([1.])

    Reference:
        Han et al., SCNet, ICCV 2017; used by Rocco et al., weakalign, CVPR 2018.
    """
    factor = moved.new_tensor([224 / size[1], 224 / size[0]])
    return pck(moved * factor, truth * factor, 224.0, alpha)


def grid_distance(
    estimate: Tensor | Sequence[Tensor], truth: Tensor | Sequence[Tensor], side: int = 20
) -> Tensor:
    """Return the mean distance between a grid's points under two transforms: ``[B]``, half images.

    Args:
        estimate: One transform ``[B, 6]`` or ``[B, 18]``, or a sequence of stages.
        truth: The same.
        side: Points per side of the grid, from edge to edge.

    Example:
        >>> from flowmatch.align.transforms import AFFINE, identity
        >>> right = identity(AFFINE)
        >>> right[:, 2] = 0.5
        >>> grid_distance(right, identity(AFFINE))
        tensor([0.5000])
    """
    first = truth if isinstance(truth, Tensor) else truth[0]
    points = corner_grid(side).to(first).expand(len(first), -1, -1)
    distance: Tensor = torch.linalg.vector_norm(
        transform_points(estimate, points) - transform_points(truth, points), dim=-1
    )
    return distance.mean(-1)
