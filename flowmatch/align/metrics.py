"""How good an alignment is: the share of points that arrive, by two conventions, and distances."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowmatch.align.transforms import corner_grid, transform_points


def pck(moved: Tensor, truth: Tensor, length: Tensor | float, alpha: float = 0.1) -> Tensor:
    """Return the share of points that come within ``alpha * length`` of the truth.

    Papers differ in the `length` they mean, so their figures cannot be compared: see `pck_box` and
    `pck_scnet`.

    Args:
        moved: Where the points of one picture were carried to in the other, ``[B, N, 2]``.
        truth: Where they belong, in the same unit; NaN for points that do not count.
        length: ``[B]`` or one for all.
        alpha: How much of the length is near enough.

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
        keypoints: Those of the picture that the points are carried to, ``[B, K, 2]``; NaN for none.
        alpha: How much of the box's side is near enough.

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
    """Return the `pck` of a picture that was resized to 224 x 224, with length 224.

    Args:
        moved: ``[B, N, 2]`` in pixels.
        truth: The same.
        size: Height and width of the picture that the points are carried to.
        alpha: How much of the side is near enough.

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
    """Return how far apart two transforms carry a grid's points: ``[B]``, half pictures, the mean.

    Args:
        estimate: As `transforms.transform_points` takes them.
        truth: The same.
        side: Points a side of the grid from edge to edge.

    Example:
        >>> from flowmatch.align.transforms import AFFINE, identity
        >>> right = identity(AFFINE)
        >>> right[:, 2] = 0.5
        >>> grid_distance(right, identity(AFFINE))
        tensor([0.5000])
    """
    first = truth if isinstance(truth, Tensor) else truth[0]
    points = corner_grid(side).to(first).expand(len(first), -1, -1)
    apart: Tensor = torch.linalg.vector_norm(transform_points(estimate, points) - transform_points(truth, points), dim=-1)
    return apart.mean(-1)
