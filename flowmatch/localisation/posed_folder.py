"""Folder of pictures with depth and poses: 3-D points of their pixels."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.geometry import transform_points, unproject
from flowmatch.io import read_depth, read_intrinsics, read_poses
from flowmatch.io._files import FilePath

_BEND = 0.02  # largest difference of the depths of neighbouring pixels, as a share of the depth
_NEIGHBOURS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))


@dataclass
class PosedFolder:
    """Pictures with depth and poses, as RGB-D cameras write them and `flowmatch fuse` reads them.

    Attributes:
        folder: Folder with ``color/NAME.jpg`` (or another image format), ``depth/NAME.png`` (16
            bits, millimetres, registered to the colour), ``poses.txt`` and ``intrinsics.txt``.
        camera: Intrinsics ``[3, 3]``, pixels.
        poses: Camera-to-world motion ``[4, 4]`` of each frame by its name, metres.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or no frame has a pose.
    """

    folder: FilePath
    camera: NDArray[np.float64] = field(init=False)
    poses: dict[str, NDArray[np.float64]] = field(init=False)
    metric = True

    def __post_init__(self) -> None:
        """Read the poses and the intrinsics."""
        self.folder = Path(self.folder)
        self.camera = read_intrinsics(self.folder / "intrinsics.txt")
        self.poses = dict(read_poses(self.folder))
        if not self.poses:
            raise ValueError(f"{self.folder}: expected frames with poses and depth, got none")

    def key(self, name: str) -> str:
        """Return the name in `poses` of a picture of an index."""
        return PurePosixPath(name).stem

    def points(
        self, name: str, xy: ArrayLike, size: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the points of the world that pixels of a frame show.

        Args:
            name: Name of the frame.
            xy: Pixels ``[N, 2]``.
            size: Width and height of its picture, which must be those of the depth.

        Returns:
            Points ``[N, 3]``, metres, and where they are known: where depth is known and does not
            jump.
        """
        path = Path(self.folder) / "depth" / f"{name}.png"
        depth = read_depth(path)
        H, W = depth.shape
        if size != (W, H):
            raise ValueError(
                f"{path}: expected the depth of a picture of {size[0]} x {size[1]} pixels, "
                f"got {W} x {H}"
            )
        pixels = np.asarray(xy, np.float64)
        x, y = np.rint(pixels).astype(int).T
        around = np.stack(
            [depth[(y + b).clip(0, H - 1), (x + a).clip(0, W - 1)] for a, b in _NEIGHBOURS]
        )
        with np.errstate(invalid="ignore"):  # comparisons with unknown depths, NaN, are false
            known = np.ptp(around, axis=0) < _BEND * around[0]
        points = unproject(pixels, np.where(known, around[0], 1), self.camera)
        return transform_points(self.poses[name], points), known
