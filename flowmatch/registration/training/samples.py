"""What descriptors are trained on: the distance fields around points that two scans share."""

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
    """Points that two scans share, as each shows them."""

    fields: Tensor
    """``[2, N, 1, 30, 30, 30]``, float32: of the source, of the target."""
    positions: Tensor
    """``[N, 3]``, float32: where they are in the target, scaled so that
    keypoints are 0.05 apart whatever the voxels' size."""


class FieldPairs:
    """Fields around points that pairs of scans share; item `i` is the same every time.

    Args:
        scans: Pairs of scans; several collections are taken in turn.
        count: Points of an item.
        frames: Fields lie along local reference frames, else along each camera's axes.
        truncation: Distance that counts as far, in voxels.
        frame_radius: As in `field_patches`.
        voxel: Least and largest side of the fields' voxels, metres.
        detail: Voxels between keypoints, as the network has it.
        max_offset: Most that the second point may be off the first, as a share of the distance between
            keypoints: at 0.5 those of two scans are as far apart as keypoints of `register`, whose
            grids know nothing of each other.
        reuse: Items from each pair of scans, with other points: scans take longer than points.
        seed: Of the points.

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
        self._open = lru_cache(maxsize=4)(self._read)

    def __len__(self) -> int:
        """Return how many items there are."""
        return self.reuse * len(self.scans) * min(len(scans) for scans in self.scans)

    def __getitem__(self, index: int) -> FieldPair:
        """Measure item `index`.

        Raises:
            IndexError: There is none.
            ValueError: The two scans share no points.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index must be below {len(self)}, got {index}")
        pair = self._open(index // self.reuse)
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
        """Leave the open scans behind: a worker process opens its own."""
        return {key: value for key, value in self.__dict__.items() if key != "_open"}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Take what another process sent."""
        self.__dict__.update(state)
        self._open = lru_cache(maxsize=4)(self._read)

    def _read(self, number: int) -> ScanPair:
        turn, which = divmod(number, len(self.scans))
        return self.scans[which][turn]


def shared_points(
    pair: ScanPair,
    count: int,
    voxel: float,
    spacing: float,
    rng: np.random.Generator,
    *,
    max_offset: float = 0.5,
) -> tuple[Points, Points]:
    """Choose points that both scans of a pair show.

    Half of them anywhere, half where the surface bends, which tells places apart.

    Args:
        pair: The scans.
        count: How many; some come twice if the scans share fewer.
        voxel: Of the fields, metres.
        spacing: Between keypoints of the source, metres.
        rng: Of the choice.
        max_offset: Most that the target's point is off the source's, as a share of `spacing`.

    Returns:
        Points of the source and of the target, ``[count, 3]`` each, in its scan's frame, metres.

    Raises:
        ValueError: The scans share none.
    """
    coarse = voxel_down(pair.source, spacing)
    fine = voxel_down(pair.target, voxel)
    if len(coarse) == 0 or len(fine) == 0:
        raise ValueError("one of the scans is empty")
    moved = transform_points(pair.motion, coarse)
    # Off by as much as the keypoints of another grid would be.
    off = rng.normal(size=moved.shape)
    far = max_offset * spacing
    off *= far * rng.random((len(moved), 1)) / np.linalg.norm(off, axis=1, keepdims=True)
    index = cKDTree(fine).query(moved + off)[1]
    apart = np.linalg.norm(fine[index] - moved, axis=1)
    shared = np.flatnonzero(apart < far + voxel)
    if len(shared) == 0:
        raise ValueError("the scans share no points")
    bend = _bend(voxel_down(pair.source, 2 * voxel), coarse[shared], 12 * voxel)
    chance = 0.5 / len(shared) + 0.5 * bend / max(bend.sum(), 1e-12)
    chance /= chance.sum()
    twice = len(shared) < count
    chosen = shared[rng.choice(len(shared), count, replace=twice, p=chance)]
    return coarse[chosen], fine[index[chosen]]


def _bend(cloud: Points, centres: Points, radius: float) -> NDArray[np.float64]:
    """Return how much of the spread around centres is across the surface, 0 to 1/3."""
    index, distance = neighbourhoods(cKDTree(cloud), centres, radius, 96)
    known = np.isfinite(distance).astype(np.float64)
    near = np.where(known[..., None] > 0, cloud[np.minimum(index, len(cloud) - 1)], 0)
    middle = near.sum(1) / np.maximum(known.sum(1, keepdims=True), 1)
    values = np.maximum(np.linalg.eigvalsh(covariances(cloud, middle, index, known)), 0)
    shares: NDArray[np.float64] = values[:, 0] / np.maximum(values.sum(1), 1e-12)
    return shares


def collate(items: Sequence[FieldPair]) -> list[Tensor]:
    """Make a batch: fields ``[2, B * N, 1, 30, 30, 30]`` and positions ``[B * N, 3]``.

    Scenes are laid far apart, so that points of two never count as near.

    Example:
        >>> item = FieldPair(torch.zeros(2, 3, 1, 30, 30, 30), torch.zeros(3, 3))
        >>> [part.shape[-4:] for part in collate([item, item])][1]
        torch.Size([6, 3])
    """
    places = [item.positions + 1000.0 * number for number, item in enumerate(items)]
    return [torch.cat([item.fields for item in items], dim=1), torch.cat(places)]
