"""Occlusion by forward-backward consistency of the flow."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmatch.ops import warp


def find_occlusion(
    forward: Any, backward: Any, relative: float = 0.01, absolute: float = 0.5
) -> Any:
    """Mark the pixels at which forward and backward flow are inconsistent.

    A pixel is occluded if ``|f + b(x + f)|^2 > relative * (|f|^2 + |b|^2) + absolute``, or if the
    flow leaves the image.

    Args:
        forward: Flow ``[H, W, 2]`` or ``[B, 2, H, W]``, in pixels.
        backward: The flow of the second frame to the first, of the same kind.
        relative: Tolerance relative to the squared motion.
        absolute: Tolerance at no motion, in square pixels.

    Returns:
        A bool array ``[H, W]``, or a tensor ``[B, H, W]``.

    Raises:
        ValueError: The flows do not have the same shape.

    Example:
        >>> right = np.zeros((4, 4, 2), np.float32)
        >>> right[..., 0] = 1
        >>> find_occlusion(right, -right)[0]  # only the last column leaves the image
        array([False, False, False,  True])

    Reference:
        Meister et al., UnFlow, AAAI 2018, equation 1.
    """
    if forward.shape != backward.shape:
        raise ValueError(
            f"both flows must have one shape, got {forward.shape} and {backward.shape}"
        )
    if not isinstance(forward, Tensor):
        f, b = (torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None].float()
                for x in (forward, backward))  # fmt: skip
        mask: NDArray[np.bool_] = find_occlusion(f, b, relative, absolute)[0].numpy()
        return mask
    back = warp(backward, forward)
    mismatch = (forward + back).square().sum(dim=1)
    length = forward.square().sum(dim=1) + back.square().sum(dim=1)
    consistent = mismatch <= relative * length + absolute  # NaN is not
    return leaves_image(forward) | ~consistent


def inconsistency(forward: Any, backward: Any) -> Any:
    """Return the distance in pixels by which the backward flow misses each pixel.

    Args:
        forward: Flow ``[H, W, 2]`` or ``[B, 2, H, W]``, in pixels.
        backward: The flow of the second frame to the first, of the same kind.

    Returns:
        ``|f + b(x + f)|``, an array ``[H, W]`` or a tensor ``[B, H, W]``; infinite where the flow
        leaves the image.
    """
    if not isinstance(forward, Tensor):
        f, b = (torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None].float()
                for x in (forward, backward))  # fmt: skip
        array: NDArray[np.float32] = inconsistency(f, b)[0].numpy()
        return array
    gap = (forward + warp(backward, forward)).norm(dim=1)
    return torch.where(leaves_image(forward), torch.inf, gap)


def leaves_image(flow: Tensor) -> Tensor:
    """Return the pixels whose flow leaves the image, ``[B, H, W]``."""
    H, W = flow.shape[-2:]
    x = torch.arange(W, device=flow.device) + flow[:, 0]
    y = torch.arange(H, device=flow.device)[:, None] + flow[:, 1]
    return (x < 0) | (x > W - 1) | (y < 0) | (y > H - 1)
