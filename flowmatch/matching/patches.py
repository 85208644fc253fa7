"""Patches around keypoints, sampled from an image pyramid."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from flowmatch.imaging import as_gray
from flowmatch.matching.keypoints import MAGNIFICATION, Keypoints

_MAX_PIXELS = 2**22  # pixels of the patches that are sampled at once; their grids take 100 MB
_BLUR = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=torch.float32) / 16  # binomial filter


def magnification_of(network: Any) -> float:
    """Return half the side of the patches that a network was trained with, in keypoint scales."""
    return float(getattr(network, "magnification", MAGNIFICATION))


def extract_patches(
    image: ArrayLike,
    keypoints: Keypoints,
    size: int,
    *,
    magnification: float = MAGNIFICATION,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Return the patches around keypoints, rotated by the keypoints' angles.

    Each patch is sampled from the level of an image pyramid that fits its scale; beyond the image
    its border is repeated.

    Args:
        image: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        keypoints: N keypoints of this image.
        size: Side of the patches in pixels, S.
        magnification: Half the side of a patch, in keypoint scales.
        device: Device of the computation.

    Returns:
        Patches ``[N, 1, S, S]``, gray in [0, 1].

    Raises:
        ValueError: `image` is not an image, or `size` or `magnification` is not positive.

    Example:
        >>> from flowmatch.matching.keypoints import detect_keypoints
        >>> image = np.zeros((64, 96), np.uint8)
        >>> extract_patches(image, detect_keypoints(image, "grid", keypoints=6), 32).shape
        torch.Size([6, 1, 32, 32])
    """
    gray = as_gray(image)
    if size < 1 or not magnification > 0:
        raise ValueError(f"size and magnification must be positive, got {size} and {magnification}")
    pixels = torch.from_numpy(gray).to(device, torch.float32)[None, None] / 255
    N = len(keypoints.xy)
    result = pixels.new_empty(N, 1, size, size)
    if N == 0:
        return result
    radius = keypoints.scale * magnification
    cosine, sine = radius * np.cos(keypoints.angle), radius * np.sin(keypoints.angle)
    x, y = keypoints.xy.T
    # Columns of a frame: x axis of the patch, y axis, centre.
    frames = np.stack([cosine, -sine, x, sine, cosine, y], axis=1).reshape(N, 2, 3)
    affine = torch.from_numpy(frames.astype(np.float32)).to(pixels.device)
    levels = build_pyramid(pixels, size)
    step = max(1, _MAX_PIXELS // size**2)
    for start in range(0, N, step):
        chunk = slice(start, start + step)
        result[chunk] = sample_patches(levels, affine[chunk], size)
    return result


def build_pyramid(image: Tensor, size: int) -> list[Tensor]:
    """Halve an image as long as patches of a side fit into it.

    Args:
        image: ``[1, 1, H, W]``, float32.
        size: Side of the patches in pixels.

    Returns:
        The image, and each level half as large as the one before, rounded down.
    """
    levels = [image]
    kernel = torch.outer(_BLUR, _BLUR)[None, None].to(image)
    while True:
        shorter = min(levels[-1].shape[-2:])
        if shorter <= 2 or shorter // 2 < size:  # padding by reflection needs 3 pixels
            return levels
        blurred = F.conv2d(F.pad(levels[-1], (2, 2, 2, 2), mode="reflect"), kernel)
        half = [side // 2 for side in blurred.shape[-2:]]
        levels.append(F.interpolate(blurred, half, mode="bilinear", align_corners=False))


def sample_patches(levels: list[Tensor], frames: Tensor, size: int) -> Tensor:
    """Sample patches from a pyramid, by bilinear interpolation.

    The square [-1, 1]² of a frame is divided into ``S x S`` cells; a pixel of the patch is the
    value at the centre of its cell. The level of the pyramid is the coarsest one in which the
    cells are at least a pixel wide.

    Args:
        levels: Pyramid of `build_pyramid`.
        frames: Affine frames ``[N, 2, 3]`` in pixels of the first level: axes and centre.
        size: Side of the patches in pixels, S.

    Returns:
        Patches ``[N, 1, S, S]``.

    Reference:
        As ``kornia.feature.extract_patches_from_pyramid`` does.
    """
    N, (height, width) = len(frames), levels[0].shape[-2:]
    cell = 2 * frames[:, :, :2].det().abs().sqrt() / size
    level = cell.log2().clamp(0, len(levels) - 1).long()
    xy = F.affine_grid(frames, [N, 1, size, size], align_corners=False)
    grid = (2 * xy + 1) / xy.new_tensor([width, height]) - 1
    level[~frames.isfinite().all(dim=2).all(dim=1)] = -1  # such patches stay 0
    result = frames.new_zeros(N, 1, size, size)
    for k, image in enumerate(levels):
        chosen = (level == k).nonzero()[:, 0]
        rows = grid[chosen].view(1, -1, size, 2)
        sampled = F.grid_sample(
            image, rows, mode="bilinear", padding_mode="border", align_corners=False
        )
        result[chosen] = sampled.view(-1, 1, size, size)
    return result
