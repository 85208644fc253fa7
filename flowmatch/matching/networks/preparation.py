"""What patch networks do to gray values before their first layer, and what they refuse."""

from torch import Tensor


def check_patches(patches: Tensor, size: int, *, larger: bool = False) -> None:
    """Refuse what is not gray patches ``[B, 1, size, size]``, or with `larger` at least as large.

    Raises:
        ValueError: It is not.
    """
    fits = patches.dim() == 4 and patches.shape[1] == 1 and patches.is_floating_point()
    sides = tuple(patches.shape[2:])
    if not fits or not (min(sides) >= size if larger else sides == (size, size)):
        wanted = f"H and W at least {size}" if larger else f"{size} x {size}"
        raise ValueError(
            f"expected gray patches in [0, 1], float [B, 1, H, W] with {wanted}, "
            f"got {patches.dtype} {tuple(patches.shape)}"
        )


def check_pairs(first: Tensor, second: Tensor) -> None:
    """Refuse stacks of patches of different shapes.

    Raises:
        ValueError: They differ.
    """
    if first.shape != second.shape:
        raise ValueError(
            "the patches of a pair must have one shape, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )


def centre(patches: Tensor) -> Tensor:
    """Subtract each patch's mean; gray / 256, as DeepCompare's training has it."""
    return (patches - patches.mean(dim=(1, 2, 3), keepdim=True)) * (255 / 256)


def standardise(patches: Tensor, eps: float = 1e-7) -> Tensor:
    """Subtract each patch's mean and divide by its standard deviation, as HardNet does."""
    centred = patches - patches.mean(dim=(1, 2, 3), keepdim=True)
    # Not torch.std, which warns of stacks of no patches.
    variance = centred.square().sum(dim=(1, 2, 3), keepdim=True) / (patches.shape[1:].numel() - 1)
    return centred / (variance.sqrt() + eps)


def check_magnification(magnification: float) -> float:
    """Return how far patches reach, in scales of their keypoints, or refuse it.

    Raises:
        ValueError: It is not within (0, 100].
    """
    if not 0 < magnification <= 100:
        raise ValueError(f"expected 0 < magnification <= 100, got {magnification}")
    return float(magnification)
