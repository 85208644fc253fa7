"""Alignment of two images: the transform between them, and one warped onto the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from flowmatch.align.baselines import sift_affine
from flowmatch.align.store import load
from flowmatch.align.transforms import (
    AFFINE,
    corner_grid,
    identity,
    transform_points,
    warp_image,
)
from flowmatch.imaging import Image, as_rgb
from flowmatch.zoo import check_float32

# Maximum median round-trip error, in half images. Of 24 pairs of training photographs with changed
# appearance the worst had 0.09; of 24 pairs of unrelated photographs 2 had less than 0.15.
_MAX_ROUND_TRIP = 0.15
_RETURNED = 0.1  # in half images: 5 % of the size

BASELINES = ("identity", "sift-affine")


@dataclass(frozen=True)
class Alignment:
    """The transform from points of the first image to points of the second.

    Attributes:
        stages: Transforms for `transforms.transform_points`, for one pair, in half images, float32.
        method: ``"network"`` or one of `BASELINES`.
        found: Whether a transform was found; else the stages are the identity.
        first_size: Height and width of the first image.
        second_size: Height and width of the second image.
        error: Estimate of the error, in pixels: of a network, the median distance between a pixel
            of the first image and its place after the transform and the one back; of
            ``"sift-affine"``, the median residual of the matches that agree, in the second image.
            None where nothing tells it.
        inliers: Share, 0 to 1, of the points that return to within 5 % of the first image's size,
            or of the matches that agree with the affine transform.
    """

    stages: tuple[Tensor, ...]
    method: str
    found: bool
    first_size: tuple[int, int]
    second_size: tuple[int, int]
    error: float | None = None
    inliers: float | None = None

    def points(self, xy: ArrayLike) -> NDArray[np.float64]:
        """Transform pixels of the first image to the second.

        Args:
            xy: ``[N, 2]``; (0, 0) is the centre of the upper left pixel.

        Returns:
            ``[N, 2]``; may lie outside the second image.

        Raises:
            ValueError: Another shape.
        """
        pixels = np.asarray(xy, np.float64)
        if pixels.ndim != 2 or pixels.shape[1] != 2:
            raise ValueError(f"points must be [N, 2], got {list(pixels.shape)}")
        (h, w), (H, W) = self.first_size, self.second_size
        start = torch.from_numpy((2 * pixels + 1) / (w, h) - 1)
        stages = [theta.double() for theta in self.stages]
        moved = transform_points(stages, start[None])[0].numpy()
        return np.asarray(((moved + 1) * (W, H) - 1) / 2, np.float64)

    def warp(self, second: ArrayLike) -> Image:
        """Warp the second image onto the first.

        Args:
            second: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``, of the size that was aligned.

        Returns:
            RGB image of the first image's size; black outside the second image.

        Raises:
            ValueError: Another type or size.
        """
        image = as_rgb(second, "second")
        if image.shape[:2] != self.second_size:
            raise ValueError(f"expected {self.second_size} pixels, got {image.shape[:2]}")
        with torch.inference_mode():
            warped = warp_image(self.stages, _tensor(image), self.first_size)[0]
        pixels = (255 * warped).round().clamp(0, 255).byte().permute(1, 2, 0)
        return np.ascontiguousarray(pixels.numpy(), np.uint8)


def align_images(
    first: ArrayLike,
    second: ArrayLike,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
) -> Alignment:
    """Find the transform from one image to another.

    Args:
        first: Reference image, uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        second: Image to warp onto the first, of any size.
        model: Name of shipped weights, a ``.safetensors`` file or an alignment network; or one of
            `BASELINES`: ``"identity"`` is the identity, ``"sift-affine"`` fits an affine transform
            to SIFT matches.
        device: Device of the network; None takes a GPU where there is one, and leaves a given
            network on its device.

    Returns:
        The alignment; its `warp` warps the second image onto the first. A network also estimates
        the transform back: if the two contradict each other, no transform is found.

    Raises:
        ValueError: An image has another type or shape, or the model is unknown.
        FileNotFoundError: The file of weights does not exist.

    Example:
        >>> image = np.zeros((40, 60, 3), np.uint8)
        >>> align_images(image, image, model="identity").points([(10, 20)]).tolist()
        [[10.0, 20.0]]
    """
    a, b = as_rgb(first, "first"), as_rgb(second, "second")
    sizes = (a.shape[0], a.shape[1]), (b.shape[0], b.shape[1])
    if model == "identity":
        return Alignment((identity(AFFINE),), "identity", True, *sizes)
    if model == "sift-affine":
        fit = sift_affine(a, b)
        return Alignment((fit.theta,), "sift-affine", fit.found, *sizes, fit.error, fit.inliers)
    if isinstance(model, nn.Module):
        check_float32(model)
    if isinstance(model, nn.Module) and device is None:
        network = model.eval()
    else:
        network = load(model, device=device)
    like: Any = next(network.parameters(), torch.zeros(()))
    with torch.inference_mode():
        results = [network(*(_tensor(x).to(like) for x in pair)) for pair in ((a, b), (b, a))]
    # Cloned: tensors made in inference mode cannot take part in autograd later.
    forward, backward = (
        tuple(theta.detach().float().cpu().clone() for theta in stages) for stages in results
    )
    error = round_trip_error(forward, backward)
    quality = _round_trip_quality(forward, backward, sizes[0])
    if error > _MAX_ROUND_TRIP:
        return Alignment((identity(AFFINE),), "network", False, *sizes, *quality)
    return Alignment(forward, "network", True, *sizes, *quality)


def round_trip_error(forward: Sequence[Tensor], backward: Sequence[Tensor]) -> float:
    """Return the median distance of points from their start after both transforms, half images.

    A network also returns transforms for two unrelated images, but these are not inverse to each
    other.

    Args:
        forward: Stages for one pair, from the first image to the second.
        backward: Stages from the second image to the first.

    Returns:
        Infinity if at most a sixteenth of the points fall on the second image.

    Example:
        >>> right = torch.tensor([[1.0, 0, 0.5, 0, 1, 0]])
        >>> round_trip_error([right], [identity(AFFINE)])
        0.5
    """
    gaps = _round_trip_gaps(forward, backward)
    return gaps.norm(dim=-1).median().item() if len(gaps) else float("inf")


def _round_trip_gaps(forward: Sequence[Tensor], backward: Sequence[Tensor]) -> Tensor:
    """Return where points that fall on the second image come back, minus their start, ``[n, 2]``.

    Empty if at most a sixteenth of the points fall on the second image.
    """
    start = corner_grid()[None]
    second = transform_points(forward, start)
    gaps = (transform_points(backward, second) - start)[(second.abs() <= 1).all(-1)]
    return gaps if len(gaps) * 16 > start.shape[1] else gaps[:0]


def _round_trip_quality(
    forward: Sequence[Tensor], backward: Sequence[Tensor], size: tuple[int, int]
) -> tuple[float | None, float]:
    """Return the median gap in pixels of the first image, and the share of small gaps."""
    gaps = _round_trip_gaps(forward, backward)
    if not len(gaps):
        return None, 0.0
    H, W = size
    pixels = (gaps * gaps.new_tensor([W / 2, H / 2])).norm(dim=-1)
    return pixels.median().item(), (gaps.norm(dim=-1) < _RETURNED).float().mean().item()


def _tensor(image: Image) -> Tensor:
    """``[H, W, 3]`` in 0 to 255 to ``[1, 3, H, W]`` in 0 to 1."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
