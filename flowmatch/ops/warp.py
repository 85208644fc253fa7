"""Backward warping: sampling of an image at the positions that a flow points to."""

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(image: Tensor, flow: Tensor, padding_mode: str = "zeros") -> Tensor:
    r"""Sample `image` bilinearly, for every pixel at the position that `flow` points to.

    ``warped[b, :, y, x] = image[b, :, y + v, x + u]`` with ``(u, v) = flow[b, :, y, x]``. Warping
    the *second* frame by the flow from first to second reconstructs the first frame, except where
    pixels are occluded. Coordinates are computed in float32 at least. Where the flow is NaN,
    ``"zeros"`` gives NaN and ``"border"`` a pixel of the border. Once differentiable, in reverse
    mode; other derivatives raise.

    Args:
        image: The image to sample, ``[B, C, H, W]``, any type; results for integers are truncated.
        flow: Displacements in pixels, ``[B, 2, H, W]``, (u right, v down).
        padding_mode: Values outside the image: ``"zeros"``, or ``"border"`` for the nearest pixel
            of the border, as in FlowNet 2.0.

    Returns:
        The warped image, ``[B, C, H, W]`` of the type of `image`.

    Raises:
        ValueError: The shapes do not match, or `padding_mode` is unknown.

    Example:
        >>> image = torch.arange(4.0).reshape(1, 1, 1, 4)
        >>> right = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 4)
        >>> warp(image, right)
        tensor([[[[1., 2., 3., 0.]]]])

    Reference:
        Jaderberg et al., Spatial Transformer Networks, NeurIPS 2015, equation 5.
    """
    if image.dim() != 4 or flow.shape != (image.shape[0], 2, *image.shape[2:]):
        raise ValueError(
            "image and flow must be [B, C, H, W] and [B, 2, H, W], "
            f"got {tuple(image.shape)} and {tuple(flow.shape)}"
        )
    if padding_mode not in ("zeros", "border"):
        raise ValueError(f"padding_mode must be 'zeros' or 'border', got {padding_mode!r}")
    if image.numel() == 0:
        return image.clone()
    H, W = image.shape[-2:]
    dtype = torch.promote_types(torch.promote_types(image.dtype, flow.dtype), torch.float32)
    x = torch.arange(W, dtype=dtype, device=flow.device)
    y = torch.arange(H, dtype=dtype, device=flow.device)[:, None]
    # grid_sample's coordinates of the pixel centres are -1 + 1/W ... 1 - 1/W.
    grid = torch.stack(
        [(2 * (x + flow[:, 0]) + 1) / W - 1, (2 * (y + flow[:, 1]) + 1) / H - 1],
        dim=-1,
    )
    sampled = F.grid_sample(image.to(dtype), grid, padding_mode=padding_mode, align_corners=False)
    return sampled.to(image.dtype)
