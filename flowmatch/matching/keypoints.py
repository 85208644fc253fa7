"""Keypoints of images, by OpenCV's detectors, and the patches around them."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from kornia.feature import extract_patches_from_pyramid
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flowmatch._opencv import cv2

DETECTORS = ("sift", "orb", "grid")

# Half the side of a patch, in scales of its keypoint, as HardNet cuts them.
MAGNIFICATION = 6.0
# Half the side of the patches of a grid, pixels.
_GRID_RADIUS = 16.0
_SMALLEST = 12  # side of an image in which a detector may find something
_MOST_PIXELS = 2**25  # of patches cut at once, 128 MB


def magnification_of(network: Any) -> float:
    """Return how far the patches reach that a network was trained on, in scales of a keypoint."""
    return float(getattr(network, "magnification", MAGNIFICATION))


class Keypoints(NamedTuple):
    """Points of an image with a size and a direction.

    Attributes:
        xy: ``[N, 2]`` float32, pixels, the centre of the upper left pixel being (0, 0).
        scale: ``[N]`` float32, pixels: the standard deviation of the blur at which the point
            stands out. A patch reaches `MAGNIFICATION` times as far to each side.
        angle: ``[N]`` float32, radians, of the point's direction, from x towards y.
        score: ``[N]`` float32, the detector's; more is better.
    """

    xy: NDArray[np.float32]
    scale: NDArray[np.float32]
    angle: NDArray[np.float32]
    score: NDArray[np.float32]

    def select(self, which: NDArray[Any] | slice) -> "Keypoints":
        """Return those at some indices, in a slice, or where a mask is true."""
        return Keypoints(*(array[which] for array in self))


def gray_image(image: ArrayLike) -> NDArray[np.uint8]:
    """Return an image as gray ``[H, W]``.

    Raises:
        ValueError: It is no uint8 image.
    """
    pixels = np.asarray(image)
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (colour or pixels.ndim == 2) or pixels.size == 0:
        came = f"{pixels.dtype} {list(pixels.shape)}"
        raise ValueError(f"image must be uint8 RGB [H, W, 3] or gray [H, W], got {came}")
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if colour else pixels
    return np.ascontiguousarray(gray, np.uint8)


def detect(image: ArrayLike, detector: str = "sift", *, keypoints: int = 8000) -> Keypoints:
    """Find keypoints, the best first.

    Args:
        image: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        detector: ``"sift"``: blobs of any size, with a direction; ``"orb"``: corners, with a
            direction, faster; ``"grid"``: upright patches of 32 pixels, evenly spaced.
        keypoints: How many at most.

    Returns:
        Keypoints, perhaps none.

    Raises:
        ValueError: There is no such detector, no such image, or `keypoints` is not positive.

    Example:
        >>> found = detect(np.zeros((64, 96), np.uint8), "grid", keypoints=6)
        >>> found.xy[:3].tolist()
        [[25.5, 20.5], [47.5, 20.5], [69.5, 20.5]]

    Reference:
        Lowe, IJCV 2004; Rublee et al., ORB, ICCV 2011; as OpenCV has them.
    """
    gray = gray_image(image)
    if detector not in DETECTORS:
        raise ValueError(f"detector must be one of {', '.join(DETECTORS)}, got {detector!r}")
    if keypoints < 1:
        raise ValueError(f"keypoints must be positive, got {keypoints}")
    if detector == "grid":
        return _grid(gray.shape[0], gray.shape[1], keypoints)
    make = cv2.SIFT.create if detector == "sift" else cv2.ORB.create
    # OpenCV fails where a level of its pyramid is empty; so close to a border it finds nothing.
    found = make(nfeatures=keypoints).detect(gray, None) if min(gray.shape) >= _SMALLEST else ()
    # Of equal scores the first in reading order, so that results repeat.
    found = sorted(found, key=lambda k: (-k.response, k.pt[1], k.pt[0], k.size, k.angle))
    rows = [(*k.pt, k.size, k.angle, k.response) for k in found[:keypoints]]
    x, y, size, angle, score = np.array(rows, np.float32).reshape(-1, 5).T
    # SIFT's size is twice its sigma. ORB's is the side of what it describes, 31 pixels at first.
    scale = size / (2 if detector == "sift" else 2 * MAGNIFICATION)
    return Keypoints(np.stack([x, y], axis=1), scale, np.deg2rad(angle), score)


def _grid(H: int, W: int, keypoints: int) -> Keypoints:
    """Spread patches evenly over an image, as many as are allowed, whole pixels apart."""
    inner_h, inner_w = (max(0, side - round(2 * _GRID_RADIUS)) for side in (H, W))

    def points(step: int) -> tuple[int, int]:
        return inner_h // step + 1, inner_w // step + 1

    step = 4
    while math.prod(points(step)) > keypoints:
        step += 1
    rows, columns = points(step)
    # Centred, so that both margins are alike.
    top = ((H - 1) - (rows - 1) * step) / 2
    left = ((W - 1) - (columns - 1) * step) / 2
    y, x = np.mgrid[:rows, :columns].astype(np.float32) * np.float32(step)
    xy = np.stack([x + np.float32(left), y + np.float32(top)], axis=-1).reshape(-1, 2)
    N = len(xy)
    scale = np.full(N, _GRID_RADIUS / MAGNIFICATION, np.float32)
    return Keypoints(xy, scale, np.zeros(N, np.float32), np.ones(N, np.float32))


def extract_patches(
    image: ArrayLike,
    keypoints: Keypoints,
    size: int,
    *,
    magnification: float = MAGNIFICATION,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Cut the patches around keypoints, upright in their own direction.

    They are sampled from an image pyramid, at the level that fits their scale; beyond the image
    its border is repeated.

    Args:
        image: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        keypoints: Those of this image, N of them.
        size: Side of the patches in pixels, S.
        magnification: Half a patch's side in scales of its keypoint.
        device: Where to compute.

    Returns:
        Patches ``[N, 1, S, S]``, gray in [0, 1].

    Raises:
        ValueError: There is no such image, or `size` or `magnification` is not positive.

    Example:
        >>> image = np.zeros((64, 96), np.uint8)
        >>> extract_patches(image, detect(image, "grid", keypoints=6), 32).shape
        torch.Size([6, 1, 32, 32])
    """
    gray = gray_image(image)
    if size < 1 or not magnification > 0:
        raise ValueError(f"size and magnification must be positive, got {size} and {magnification}")
    pixels = torch.from_numpy(gray).to(device, torch.float32)[None, None] / 255
    N = len(keypoints.xy)
    result = torch.empty(N, 1, size, size, device=pixels.device)
    if N == 0:
        return result
    reach = keypoints.scale * magnification
    cosine, sine = reach * np.cos(keypoints.angle), reach * np.sin(keypoints.angle)
    x, y = keypoints.xy.T
    # Columns: where the patch's x and y axes point to, and its centre.
    frames = np.stack([cosine, -sine, x, sine, cosine, y], axis=1).reshape(1, N, 2, 3)
    affine = torch.from_numpy(frames.astype(np.float32)).to(pixels.device)
    step = max(1, _MOST_PIXELS // size**2)
    for start in range(0, N, step):
        some = slice(start, start + step)
        result[some] = extract_patches_from_pyramid(pixels, affine[:, some], size)[0]
    return result
