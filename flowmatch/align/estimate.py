"""From two pictures to the transform between them, and one laid on the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from flowmatch.align.baselines import sift_affine
from flowmatch.align.transforms import AFFINE, corner_grid, identity, transform_points, warp_image

Image = NDArray[np.uint8]

# Median of a round trip, half pictures. Of 24 pairs of training photographs with other looks the
# worst came back within 0.09; from one photograph to another and back, 2 of 24 came within 0.15.
_ASTRAY = 0.15

BASELINES = ("identity", "sift-affine")


@dataclass(frozen=True)
class Alignment:
    """Which point of the second picture each point of the first one is.

    Attributes:
        stages: Transforms as `transforms.transform_points` takes them, for one pair, in half pictures, float32.
        method: ``"network"`` or one of `BASELINES`.
        found: False where the method gave up; then nothing is moved.
        first_size: Height and width of the first picture.
        second_size: Of the second.
    """

    stages: tuple[Tensor, ...]
    method: str
    found: bool
    first_size: tuple[int, int]
    second_size: tuple[int, int]

    def points(self, xy: ArrayLike) -> NDArray[np.float64]:
        """Carry pixels of the first picture to the second.

        Args:
            xy: ``[N, 2]``; (0, 0) is the centre of the upper left pixel.

        Returns:
            ``[N, 2]``; may lie outside.

        Raises:
            ValueError: The shape is another.
        """
        pixels = np.asarray(xy, np.float64)
        if pixels.ndim != 2 or pixels.shape[1] != 2:
            raise ValueError(f"points must be [N, 2], got {list(pixels.shape)}")
        (h, w), (H, W) = self.first_size, self.second_size
        inside = torch.from_numpy((2 * pixels + 1) / (w, h) - 1)
        moved = transform_points([theta.double() for theta in self.stages], inside[None])[0].numpy()
        return np.asarray(((moved + 1) * (W, H) - 1) / 2, np.float64)

    def warp(self, second: ArrayLike) -> Image:
        """Lay the second picture on the first.

        Args:
            second: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``, of the size that was aligned.

        Returns:
            ``[H1, W1, 3]``, of the first picture's size; black where the second shows nothing.

        Raises:
            ValueError: It is not such a picture.
        """
        image = _checked(second, "second")
        if image.shape[:2] != self.second_size:
            raise ValueError(f"expected {self.second_size} pixels, got {image.shape[:2]}")
        with torch.inference_mode():
            laid = warp_image(self.stages, _tensor(image), self.first_size)[0]
        pixels = (255 * laid).round().clamp(0, 255).byte().permute(1, 2, 0)
        return np.ascontiguousarray(pixels.numpy(), np.uint8)


def align_images(network: nn.Module | str, first: ArrayLike, second: ArrayLike) -> Alignment:
    """Find the transform from one picture to another.

    Args:
        network: An alignment network, or one of `BASELINES`: ``"identity"`` moves nothing,
            ``"sift-affine"`` fits SIFT matches.
        first: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``: what the second is laid on.
        second: The same, of any size.

    Returns:
        The alignment; its `warp` lays the second picture on the first. A network is also asked the
        other way round: where the two answers contradict each other, nothing was found.

    Raises:
        ValueError: A picture is not one, or there is no such method.

    Example:
        >>> picture = np.zeros((40, 60, 3), np.uint8)
        >>> align_images("identity", picture, picture).points([(10, 20)]).tolist()
        [[10.0, 20.0]]
    """
    a, b = _checked(first, "first"), _checked(second, "second")
    sizes = (a.shape[0], a.shape[1]), (b.shape[0], b.shape[1])
    if isinstance(network, nn.Module):
        like: Any = next(network.parameters(), torch.zeros(()))
        with torch.inference_mode():
            there, back = (
                network.eval()(*(_tensor(image).to(like) for image in pair))
                for pair in ((a, b), (b, a))
            )
        # Clones: what is made in inference mode cannot be derived later.
        stages, returned = (
            tuple(theta.detach().float().cpu().clone() for theta in found)
            for found in (there, back)
        )
        if round_trip(stages, returned) > _ASTRAY:
            return Alignment((identity(AFFINE),), "network", False, *sizes)
        return Alignment(stages, "network", True, *sizes)
    if network == "identity":
        return Alignment((identity(AFFINE),), network, True, *sizes)
    if network == "sift-affine":
        theta, known = sift_affine(a, b)
        return Alignment((theta,), network, known, *sizes)
    raise ValueError(f"expected a network or one of {', '.join(BASELINES)}, got {network!r}")


def round_trip(there: Sequence[Tensor], back: Sequence[Tensor]) -> float:
    """Return how far from where they began points come back, the median, in half pictures.

    Two pictures of different things give a transform as well, and another one the other way round.

    Args:
        there: Stages for one pair, from the first picture to the second.
        back: From the second to the first.

    Returns:
        Infinity where a sixteenth of the points, or less, fall on the second picture.

    Example:
        >>> right = torch.tensor([[1.0, 0, 0.5, 0, 1, 0]])
        >>> round_trip([right], [identity(AFFINE)])
        0.5
    """
    start = corner_grid()[None]
    second = transform_points(there, start)
    apart = torch.linalg.vector_norm(transform_points(back, second) - start, dim=-1)
    seen = apart[(second.abs() <= 1).all(-1)]
    return seen.median().item() if len(seen) * 16 > start.shape[1] else float("inf")


def _checked(image: ArrayLike, name: str) -> Image:
    pixels = np.asarray(image)
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (colour or pixels.ndim == 2) or pixels.size == 0:
        raise ValueError(
            f"{name} must be uint8 [H, W, 3] or [H, W], got {pixels.dtype} {list(pixels.shape)}"
        )
    return np.ascontiguousarray(pixels if colour else np.repeat(pixels[..., None], 3, axis=2))


def _tensor(image: Image) -> Tensor:
    """``[H, W, 3]`` in 0 to 255 to ``[1, 3, H, W]`` in 0 to 1."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
