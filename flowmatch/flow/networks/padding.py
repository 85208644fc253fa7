"""Padding of images to a network's strides, and cropping of its flows."""

import torch.nn.functional as F
from torch import Tensor

SMALLEST = 16
"""Smallest side of an image, in pixels."""


def round_up(side: int, multiple: int) -> int:
    """Return the smallest multiple that is not smaller than a side.

    Only positive numbers are divided: ONNX rounds quotients towards zero, and `torch.compile` fails
    on the remainder of a negative symbol.
    """
    return (side + multiple - 1) // multiple * multiple


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the right and bottom border of ``[B, C, H, W]`` until `multiple` divides H and W."""
    H, W = image.shape[-2:]
    right, below = (round_up(side, multiple) - side for side in (W, H))
    return F.pad(image, (0, right, 0, below), mode="replicate")


def crop_to_level(flow: Tensor, height: int, width: int, level: int) -> Tensor:
    """Crop a flow at ``1 / 2**level`` to the part that an image of ``height x width`` covers."""
    step = 2**level
    return flow[..., : round_up(height, step) // step, : round_up(width, step) // step]


def check_pair(first: Tensor, second: Tensor) -> None:
    """Check that two batches are RGB images of one size.

    Raises:
        ValueError: They are not, or the images are too small.
    """
    good = first.dim() == 4 and first.shape == second.shape and first.shape[1] == 3
    if not good or min(first.shape[-2:]) < SMALLEST:
        raise ValueError(
            f"first and second must be [B, 3, H, W] of the same shape, H and W >= {SMALLEST}, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
