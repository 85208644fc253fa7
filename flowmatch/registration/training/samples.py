"""Training samples of descriptors: distance fields around points that two scans share."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # type: ignore[import-untyped]
from torch import Tensor

from flowmatch.geometry import transform_points
from flowmatch.registration.describe import field_patches
from flowmatch.registration.keypoints import Points, covariances, neighbourhoods, voxel_down
from flowmatch.registration.synthetic.pairs import ScanPair, Scans


class FieldPair(NamedTuple):
    """Fields around points that two scans share.

    Attributes:
        fields: ``[2, N, 1, 30, 30, 30]``, float32: of the source and of the target.
        positions: ``[N, 3]``, float32: positions in the target, scaled so that keypoints are 0.05
            apart for any voxel size.
    """

    fields: Tensor
    positions: Tensor


class FieldPairs:
    """Fields around points that pairs of scans share; the seed and the index determine an item.

    Args:
        scans: Collections of scan pairs, used alternately.
        count: Points per item.
        frames: Whether fields are aligned to local reference frames; else to the camera's axes.
        truncation: Truncation distance, in voxels.
        frame_radius: Radius of the neighbourhood that determines the frame, in voxels.
        voxel: Minimum and maximum side of the fields' voxels, metres.
        detail: Field voxels between keypoints; see `FieldDescriptor`.
        max_offset: Maximum distance between the two points of a pair, as a share of the distance
            between keypoints: 0.5 corresponds to the unrelated keypoint grids of two scans.
        reuse: Items per pair of scans, with different points: scans take longer to make.
        seed: Random seed of the points.

    Raises:
        ValueError: No scans, or an argument is out of range.

    Example:
        >>> from flowmatch.registration.synthetic.pairs import Sensor, SyntheticScans
        >>> FieldPairs([SyntheticScans(sensor=Sensor(size=(48, 64)))], count=3)[0].fields.shape
        torch.Size([2, 3, 1, 30, 30, 30])
    """

    def __init__(
        self,
        scans: Sequence[Scans],
        count: int = 64,
        *,
        frames: bool = True,
        truncation: float = 5.0,
        frame_radius: float = 15.0,
        voxel: tuple[float, float] = (0.009, 0.016),
        detail: float = 5.0,
        max_offset: float = 0.5,
        reuse: int = 4,
        seed: int = 0,
    ) -> None:
        if not scans or count < 1 or reuse < 1 or not 0 < voxel[0] <= voxel[1]:
            raise ValueError(
                "scans, a positive count and reuse and rising voxels are needed, "
                f"got {len(scans)}, {count}, {reuse} and {voxel}"
            )
        self.scans = list(scans)
        self.count, self.frames = count, frames
        self.truncation, self.frame_radius = truncation, frame_radius
        self.voxel, self.detail, self.max_offset = voxel, detail, max_offset
        self.reuse, self.seed = reuse, seed
        self._cached = lru_cache(maxsize=4)(self._read)

    def __len__(self) -> int:
        """Return the number of items."""
        return self.reuse * len(self.scans) * min(len(scans) for scans in self.scans)

    def __getitem__(self, index: int) -> FieldPair:
        """Return item `index`.

        Raises:
            IndexError: The index is out of range.
            ValueError: The two scans share no points.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index must be below {len(self)}, got {index}")
        pair = self._cached(index // self.reuse)
        rng = np.random.default_rng([self.seed, index, 5])
        voxel = float(np.exp(rng.uniform(*np.log(self.voxel))))
        spacing = self.detail * voxel
        first, second = shared_points(
            pair, self.count, voxel, spacing, rng, max_offset=self.max_offset
        )
        fields = [
            field_patches(
                voxel_down(cloud, voxel),
                points,
                voxel=voxel,
                truncation=self.truncation,
                frames=self.frames,
                frame_radius=self.frame_radius,
                sides=-points,  # the sensor is at the origin
            )[:, None]
            for cloud, points in ((pair.source, first), (pair.target, second))
        ]
        positions = torch.from_numpy(second / spacing * 0.05).float()
        return FieldPair(torch.stack(fields), positions)

    def __getstate__(self) -> dict[str, object]:
        """Return the state without cached scans: a worker process reads its own."""
        return {key: value for key, value in self.__dict__.items() if key != "_cached"}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Restore the state in another process."""
        self.__dict__.update(state)
        self._cached = lru_cache(maxsize=4)(self._read)

    def _read(self, number: int) -> ScanPair:
        index, collection = divmod(number, len(self.scans))
        return self.scans[collection][index]


def shared_points(
    pair: ScanPair,
    count: int,
    voxel: float,
    spacing: float,
    rng: np.random.Generator,
    *,
    max_offset: float = 0.5,
) -> tuple[Points, Points]:
    """Sample points that both scans of a pair show.

    Half of them uniformly, half by the curvature of the surface, which makes places distinctive.

    Args:
        pair: The scans.
        count: Number of points; points repeat if the scans share fewer.
        voxel: Side of the fields' voxels, metres.
        spacing: Distance between keypoints of the source, metres.
        rng: Source of random numbers.
        max_offset: Maximum distance between the two points of a pair, as a share of `spacing`.

    Returns:
        Points of the source and of the target, ``[count, 3]`` each, in their scan's frame, metres.

    Raises:
        ValueError: The scans share no points.
    """
    coarse = voxel_down(pair.source, spacing)
    fine = voxel_down(pair.target, voxel)
    if len(coarse) == 0 or len(fine) == 0:
        raise ValueError("one of the scans is empty")
    moved = transform_points(pair.motion, coarse)
    # Random offsets as between the keypoints of two unrelated grids.
    offset = rng.normal(size=moved.shape)
    limit = max_offset * spacing
    offset *= limit * rng.random((len(moved), 1)) / np.linalg.norm(offset, axis=1, keepdims=True)
    index = cKDTree(fine).query(moved + offset)[1]
    distance = np.linalg.norm(fine[index] - moved, axis=1)
    shared = np.flatnonzero(distance < limit + voxel)
    if len(shared) == 0:
        raise ValueError("the scans share no points")
    curvature = _curvature(voxel_down(pair.source, 2 * voxel), coarse[shared], 12 * voxel)
    probability = 0.5 / len(shared) + 0.5 * curvature / max(curvature.sum(), 1e-12)
    probability /= probability.sum()
    repeat = len(shared) < count
    chosen = shared[rng.choice(len(shared), count, replace=repeat, p=probability)]
    return coarse[chosen], fine[index[chosen]]


def _curvature(cloud: Points, centres: Points, radius: float) -> NDArray[np.float64]:
    """Return the share of the neighbours' variance along the normal, 0 to 1/3."""
    index, distance = neighbourhoods(cKDTree(cloud), centres, radius, 96)
    known = np.isfinite(distance).astype(np.float64)
    near = np.where(known[..., None] > 0, cloud[np.minimum(index, len(cloud) - 1)], 0)
    centroid = near.sum(1) / np.maximum(known.sum(1, keepdims=True), 1)
    values = np.maximum(np.linalg.eigvalsh(covariances(cloud, centroid, index, known)), 0)
    shares: NDArray[np.float64] = values[:, 0] / np.maximum(values.sum(1), 1e-12)
    return shares


def collate(items: Sequence[FieldPair]) -> list[Tensor]:
    """Return a batch: fields ``[2, B * N, 1, 30, 30, 30]`` and positions ``[B * N, 3]``.

    Scenes are placed far from each other, so that points of two scenes are never close.

    Example:
        >>> item = FieldPair(torch.zeros(2, 3, 1, 30, 30, 30), torch.zeros(3, 3))
        >>> [part.shape[-4:] for part in collate([item, item])][1]
        torch.Size([6, 3])
    """
    places = [item.positions + 1000.0 * number for number, item in enumerate(items)]
    return [torch.cat([item.fields for item in items], dim=1), torch.cat(places)]
