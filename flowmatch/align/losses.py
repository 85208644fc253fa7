"""Losses of geometric matching: of transforms by a grid of points, of scores by true matches."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowmatch.align.transforms import corner_grid, transform_points, pixel_grid


def grid_loss(
    estimate: Tensor | Sequence[Tensor], truth: Tensor | Sequence[Tensor], side: int = 20
) -> Tensor:
    """Return the mean squared distance between grid points that both transforms moved.

    Parameters of different kinds have no common unit; points have. So an affine estimate can be
    compared with a thin-plate truth.

    Args:
        estimate: One transform ``[B, 6]`` or ``[B, 18]``, or stages as `transform_points` takes them.
        truth: The same.
        side: Points a side of the grid from edge to edge.

    Returns:
        A scalar, in squared half pictures.

    Example:
        >>> from flowmatch.align.transforms import AFFINE, identity
        >>> right = identity(AFFINE)
        >>> right[:, 2] = 0.5
        >>> grid_loss(right, identity(AFFINE))
        tensor(0.2500)

    Reference:
        Rocco et al., Convolutional neural network architecture for geometric matching, CVPR 2017,
        equation 5.
    """
    first = truth if isinstance(truth, Tensor) else truth[0]
    points = corner_grid(side).to(first).expand(len(first), -1, -1)
    return (transform_points(estimate, points) - transform_points(truth, points)).square().sum(-1).mean()


def stages_loss(estimate: Sequence[Tensor], truth: Sequence[Tensor], early: float = 0.5) -> Tensor:
    """Return the `grid_loss` of all stages together, and of each stage on the way by `early`.

    A later stage does not correct an earlier one: its gradient ends there, as if each stage were
    trained on its own, which is how the paper does it.

    Args:
        estimate: A network's stages, the first one first.
        truth: True stages.
        early: Weight of every stage but the last.

    Returns:
        A scalar, in squared half pictures.
    """
    done = [theta.detach() for theta in estimate]
    last = len(estimate) - 1
    losses = [
        grid_loss([*done[:k], theta], truth) * (1.0 if k == last else early)
        for k, theta in enumerate(estimate)
    ]
    return sum(losses[1:], losses[0])


def matching_loss(scores: Tensor, truth: Tensor | Sequence[Tensor], side: int) -> Tensor:
    """Return the cross-entropy of the true matches among all, seen from both pictures.

    A position whose match lies between cells of the other map belongs to the four around it,
    bilinearly; one whose match lies outside does not count.

    Args:
        scores: ``[B, side^2, side^2]``: the second picture's position, then the first one's.
        truth: The transform or its stages, as `transforms.transform_points` takes them.
        side: Of both maps.

    Returns:
        A scalar, in nats.

    Example:
        >>> from flowmatch.align.transforms import AFFINE, identity
        >>> matching_loss(torch.zeros(1, 16, 16), identity(AFFINE), 4)  # log 16
        tensor(2.7726)

    Reference:
        van den Oord et al., Representation learning with contrastive predictive coding, 2018
        (InfoNCE), with a picture's other positions for negatives.
    """
    first = truth if isinstance(truth, Tensor) else truth[0]
    grid = pixel_grid(side, side).to(first).expand(len(first), -1, -1)
    share = _bilinear(transform_points(truth, grid), side).mT.to(scores)
    both = scores.log_softmax(1) + scores.log_softmax(2)
    return -(share * both).sum() / (2 * share.sum()).clamp_min(1)


def _bilinear(points: Tensor, side: int) -> Tensor:
    """Return the shares of the cells in each point: ``[B, N, 2]`` to ``[B, N, side^2]``."""
    cells = ((points + 1) * side - 1) / 2
    inside = (points.abs() <= 1).all(-1)
    ticks = torch.arange(side).to(cells)
    # Beyond the centre of the outermost cell there is only that cell.
    near = (1 - (cells.clamp(0, side - 1)[..., None] - ticks).abs()).clamp_min(0)
    x, y = near.unbind(-2)
    return (y[..., :, None] * x[..., None, :]).flatten(-2) * inside[..., None]
