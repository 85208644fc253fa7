"""True flow from an RGB-D camera that moves through a still scene, by depth and poses."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.geometry import depths_agree, unproject
from flowmatch.io import read_depth, read_intrinsics

MIN_KNOWN = 0.1
"""Smallest share of the first frame's pixels that the second must show."""


class PosedTruth(NamedTuple):
    """Files and camera motion from which the flow of two frames is computed.

    Attributes:
        first: Depth of the first frame, 16 bits, millimetres.
        second: Depth of the second frame.
        camera: Text file with the intrinsics of both frames, pixels.
        motion: Transform from the first camera's axes to the second's, ``[4, 4]``, metres.
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
        flow = flow_from_depth(first, second, self.motion, read_intrinsics(self.camera))
        known = float(np.isfinite(flow[..., 0]).mean())
        if known < MIN_KNOWN:
            raise ValueError(
                f"{self.second}: expected to see a tenth of the points of {self.first.name}, "
                f"got {100 * known:.1f} %"
            )
        return flow


def flow_from_depth(
    first: ArrayLike, second: ArrayLike, motion: ArrayLike, camera: ArrayLike
) -> NDArray[np.float32]:
    """Compute the flow of a still scene under a moving camera.

    Args:
        first: Depth ``[H, W]`` along the optical axis, metres; NaN where it is unknown.
        second: Depth of the second frame, same size.
        motion: Transform from the first camera's axes to the second's, ``[4, 4]``, metres.
        camera: Intrinsics ``[3, 3]``, pixels.

    Returns:
        Flow ``[H, W, 2]``, pixels; NaN at points that the second depth does not confirm: hidden,
        outside the image, moved, or unknown.

    Raises:
        ValueError: The shapes do not fit.

    Example:
        >>> shift = np.eye(4)
        >>> shift[0, 3] = 0.1  # metres to the right: 100 * 0.1 / 2 pixels
        >>> wall = np.full((1, 9), 2.0)
        >>> flow = flow_from_depth(wall, wall, shift, np.diag([100, 100, 1]))
        >>> flow[0, 3].tolist(), flow[0, 4].tolist()
        ([5.0, 0.0], [nan, nan])
    """
    depth, second_depth = (np.asarray(array, np.float32) for array in (first, second))
    M, K = np.asarray(motion, np.float64), np.asarray(camera, np.float64)
    same_size = depth.ndim == 2 and second_depth.shape == depth.shape
    if not same_size or M.shape != (4, 4) or K.shape != (3, 3):
        raise ValueError(
            "depths must be [H, W] of one size, motion [4, 4] and camera [3, 3], got "
            f"{list(depth.shape)}, {list(second_depth.shape)}, {list(M.shape)} and {list(K.shape)}"
        )
    v, u = np.indices(depth.shape)
    points = unproject(np.stack([u, v], axis=-1), depth, K) @ M[:3, :3].T + M[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = ((points @ K.T)[..., :2] / points[..., 2:]).transpose(2, 0, 1)
        expected = points[..., 2]
        confirmed = (expected > 0) & depths_agree(_nearest(second_depth, x, y), expected)
    return np.where(confirmed[..., None], np.stack([x - u, y - v], axis=-1), np.nan).astype(
        np.float32
    )


def _nearest(
    depth: NDArray[np.float32], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the depth at the pixels nearest to (x, y), -1 outside the image."""
    x, y = np.nan_to_num(np.stack([x, y]), nan=-9, posinf=-9, neginf=-9).astype(np.float32)
    border = cv2.BORDER_CONSTANT
    return np.asarray(cv2.remap(depth, x, y, cv2.INTER_NEAREST, None, border, -1.0), np.float32)
