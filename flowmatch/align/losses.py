"""Training losses: grid distance for transforms, cross-entropy for correlation scores."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowmatch.align.transforms import corner_grid, pixel_grid, transform_points


def grid_loss(
    estimate: Tensor | Sequence[Tensor], truth: Tensor | Sequence[Tensor], side: int = 20
) -> Tensor:
    """Return the mean squared distance between a grid's points under two transforms.

    Points have a common unit, parameters of different kinds do not: an affine estimate can be
    compared with a thin-plate truth.

    Args:
        estimate: One transform ``[B, 6]`` or ``[B, 18]``, or a sequence of stages.
        truth: The same.
        side: Points per side of the grid, from edge to edge.

    Returns:
        A scalar, in squared half images.

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
    return (
        (transform_points(estimate, points) - transform_points(truth, points))
        .square()
        .sum(-1)
        .mean()
    )


def stages_loss(estimate: Sequence[Tensor], truth: Sequence[Tensor], early: float = 0.5) -> Tensor:
    """Return the `grid_loss` after all stages, plus `early` times that after each earlier stage.

    The gradient of a stage does not flow into the stages before it: each stage is trained as if on
    its own, as in the paper.

    Args:
        estimate: Stages of a network, in order.
        truth: True stages.
        early: Weight of every stage but the last.

    Returns:
        A scalar, in squared half images.
    """
    detached = [theta.detach() for theta in estimate]
    last = len(estimate) - 1
    losses = [
        grid_loss([*detached[:k], theta], truth) * (1.0 if k == last else early)
        for k, theta in enumerate(estimate)
    ]
    return sum(losses[1:], losses[0])


def matching_loss(scores: Tensor, truth: Tensor | Sequence[Tensor], side: int) -> Tensor:
    """Return the cross-entropy of the true matches under the softmax from either image.

    A true match between cells of the other map is divided bilinearly among the four cells around
    it; a match outside the map does not count.

    Args:
        scores: ``[B, side^2, side^2]``: positions of the second image, then of the first.
        truth: One transform, or a sequence of stages.
        side: Side of both maps.

    Returns:
        A scalar, in nats.

    Example:
        >>> from flowmatch.align.transforms import AFFINE, identity
        >>> matching_loss(torch.zeros(1, 16, 16), identity(AFFINE), 4)  # log 16
        tensor(2.7726)

    Reference:
        van den Oord et al., Representation learning with contrastive predictive coding, 2018
        (InfoNCE), with the other positions of the image as negatives.
    """
    first = truth if isinstance(truth, Tensor) else truth[0]
    grid = pixel_grid(side, side).to(first).expand(len(first), -1, -1)
    share = _bilinear(transform_points(truth, grid), side).mT.to(scores)
    both = scores.log_softmax(1) + scores.log_softmax(2)
    return -(share * both).sum() / (2 * share.sum()).clamp_min(1)


def _bilinear(points: Tensor, side: int) -> Tensor:
    """Return the bilinear weights of cells for each point: ``[B, N, 2]`` to ``[B, N, side^2]``."""
    cells = ((points + 1) * side - 1) / 2
    inside = (points.abs() <= 1).all(-1)
    ticks = torch.arange(side).to(cells)
    # Beyond the centre of the outermost cell all weight is on that cell.
    near = (1 - (cells.clamp(0, side - 1)[..., None] - ticks).abs()).clamp_min(0)
    x, y = near.unbind(-2)
    return (y[..., :, None] * x[..., None, :]).flatten(-2) * inside[..., None]
