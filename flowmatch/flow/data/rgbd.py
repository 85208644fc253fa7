"""True flow from an RGB-D camera: where the points of a still scene go when it moves."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.io import read_depth, read_intrinsics

NEAR, NEAR_SHARE = 0.03, 0.02  # metres and share of the depth: the same surface
_BORDER = cv2.BORDER_CONSTANT
LEAST = 0.1  # of the first frame's pixels, that the second must show


class PosedTruth(NamedTuple):
    """What the flow of two frames is computed from.

    Attributes:
        first: Depth of the first frame, 16 bits, millimetres.
        second: Depth of the second.
        camera: Text with the matrix of both, pixels.
        motion: From the first camera's axes to the second's, ``[4, 4]``, metres.
    """

    first: Path
    second: Path
    camera: Path
    motion: NDArray[np.float64]

    def flow(self) -> NDArray[np.float32]:
        """Read the files and compute the flow, ``[H, W, 2]``.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is damaged, or the frames share too little.
        """
        first, second = read_depth(self.first), read_depth(self.second)
        flow = posed_flow(first, second, self.motion, read_intrinsics(self.camera))
        known = float(np.isfinite(flow[..., 0]).mean())
        if known < LEAST:
            raise ValueError(
                f"{self.second}: expected to see a tenth of the points of {self.first.name}, "
                f"got {100 * known:.1f} %"
            )
        return flow


def posed_flow(
    first: ArrayLike, second: ArrayLike, motion: ArrayLike, camera: ArrayLike
) -> NDArray[np.float32]:
    """Compute how a still scene moves in the pictures of a camera that moves.

    Args:
        first: Depth ``[H, W]`` along the optical axis, metres; NaN where it is unknown.
        second: Depth of the second frame, same size.
        motion: From the first camera's axes to the second's, ``[4, 4]``, metres.
        camera: Its matrix ``[3, 3]``, pixels.

    Returns:
        Flow ``[H, W, 2]``, pixels; NaN at points that the second depth does not confirm: hidden,
        out of the picture, moved, or unknown.

    Raises:
        ValueError: The shapes do not fit.

    Example:
        >>> shift = np.eye(4)
        >>> shift[0, 3] = 0.1  # metres to the right: 100 * 0.1 / 2 pixels
        >>> wall = np.full((1, 9), 2.0)
        >>> flow = posed_flow(wall, wall, shift, np.diag([100, 100, 1]))
        >>> flow[0, 3].tolist(), flow[0, 4].tolist()
        ([5.0, 0.0], [nan, nan])
    """
    z, seen = (np.asarray(depth, np.float32) for depth in (first, second))
    move, K = np.asarray(motion, np.float64), np.asarray(camera, np.float64)
    if z.ndim != 2 or seen.shape != z.shape or move.shape != (4, 4) or K.shape != (3, 3):
        raise ValueError(
            "depths must be [H, W] of one size, motion [4, 4] and camera [3, 3], got "
            f"{list(z.shape)}, {list(seen.shape)}, {list(move.shape)} and {list(K.shape)}"
        )
    v, u = np.indices(z.shape)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(K).T
    points = (rays * z[..., None]) @ move[:3, :3].T + move[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = ((points @ K.T)[..., :2] / points[..., 2:]).transpose(2, 0, 1)
        there = np.nan_to_num(np.stack([x, y]), nan=-9, posinf=-9, neginf=-9).astype(np.float32)
        found = cv2.remap(seen, there[0], there[1], cv2.INTER_NEAREST, None, _BORDER, -1.0)
        depth = points[..., 2]
        confirmed = (depth > 0) & (np.abs(found - depth) < NEAR + NEAR_SHARE * depth)
    return np.where(confirmed[..., None], np.stack([x - u, y - v], axis=-1), np.nan).astype(
        np.float32
    )
