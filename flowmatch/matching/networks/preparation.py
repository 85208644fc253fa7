"""Checks and normalisation of the input of patch networks."""

from torch import Tensor


def check_patches(patches: Tensor, size: int, *, larger: bool = False) -> None:
    """Check gray patches.

    Args:
        patches: Patches ``[B, 1, size, size]``, floats.
        size: Side of the patches in pixels.
        larger: Accept patches of at least `size` x `size`.

    Raises:
        ValueError: The type or shape differs.
    """
    fits = patches.dim() == 4 and patches.shape[1] == 1 and patches.is_floating_point()
    sides = tuple(patches.shape[2:])
    if not fits or not (min(sides) >= size if larger else sides == (size, size)):
        sizes = f"H and W at least {size}" if larger else f"{size} x {size}"
        raise ValueError(
            f"expected gray patches in [0, 1], float [B, 1, H, W] with {sizes}, "
            f"got {patches.dtype} {tuple(patches.shape)}"
        )


def check_pairs(first: Tensor, second: Tensor) -> None:
    """Check that both stacks of patches have one shape.

    Raises:
        ValueError: The shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(
            "the patches of a pair must have one shape, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )


def centre(patches: Tensor) -> Tensor:
    """Subtract the mean of each patch, and scale to gray / 256 as in DeepCompare's training."""
    return (patches - patches.mean(dim=(1, 2, 3), keepdim=True)) * (255 / 256)


def standardise(patches: Tensor, eps: float = 1e-7) -> Tensor:
    """Subtract the mean of each patch and divide by its standard deviation, as HardNet does."""
    centred = patches - patches.mean(dim=(1, 2, 3), keepdim=True)
    # torch.std would warn about empty stacks.
    variance = centred.square().sum(dim=(1, 2, 3), keepdim=True) / (patches.shape[1:].numel() - 1)
    return centred / (variance.sqrt() + eps)


def check_magnification(magnification: float) -> float:
    """Return half the side of patches in keypoint scales; raise ValueError outside (0, 100]."""
    if not 0 < magnification <= 100:
        raise ValueError(f"expected 0 < magnification <= 100, got {magnification}")
    return float(magnification)
