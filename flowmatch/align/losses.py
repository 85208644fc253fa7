"""The loss of geometric matching: how far apart two transforms carry a grid of points."""

from collections.abc import Sequence

from torch import Tensor

from flowmatch.align.transforms import corner_grid, move


def grid_loss(
    estimate: Tensor | Sequence[Tensor], truth: Tensor | Sequence[Tensor], side: int = 20
) -> Tensor:
    """Return the mean squared distance between grid points that both transforms moved.

    Parameters of different kinds have no common unit; points have. So an affine estimate can be
    compared with a thin-plate truth.

    Args:
        estimate: One transform ``[B, 6]`` or ``[B, 18]``, or stages as `move` takes them.
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
    return (move(estimate, points) - move(truth, points)).square().sum(-1).mean()


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
