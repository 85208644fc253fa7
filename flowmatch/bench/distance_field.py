"""Benchmark of distance fields, against a k-d tree that is queried for all voxels."""

import os

import numpy as np
import torch
from scipy.spatial import cKDTree  # type: ignore[import-untyped]
from torch import Tensor

from flowmatch.bench.measure import Case, Implementation, Suite
from flowmatch.ops import distance_field
from flowmatch.ops.distance_field import distance_field_reference

# Points, keypoints, side in centimetres of a cube whose faces they are on, voxels along a side.
_SHAPES = {
    "1M points, 3 m": (1_000_000, 64, 300, 30),
    "1M points, 1 m": (1_000_000, 64, 100, 30),
}
_VOXEL, _TRUNCATION = 0.01, 5.0


def _case(name: str, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Case:
    count, keypoints, side, size = shape
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(count, 3, generator=generator)
    wall = torch.randint(0, 3, (count,), generator=generator)
    points[torch.arange(count), wall] = points[torch.arange(count), wall].round()
    points = points * side / 100
    centres = points[torch.randperm(count, generator=generator)[:keypoints]]
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    implementations = [Implementation("flowmatch", lambda p, c: distance_field(p, c, size=size))]
    if device.type == "cpu":
        implementations.append(Implementation("scipy cKDTree", lambda p, c: _tree(p, c, size)))
    return Case(
        "distance_field",
        name,
        (points.to(device, kind), centres.to(device, kind)),
        0.0,
        lambda p, c: _truth(p, c, size),
        tuple(implementations),
        heads=(None, 1),
        backward=False,
        tolerance=(0.0, 1e-4),
    )


def _truth(points: Tensor, centres: Tensor, size: int) -> Tensor:
    reach = 2 * _VOXEL * (size / 2 + _TRUNCATION)
    near = points[(points - centres[0]).norm(dim=1) < reach]  # the rest cannot matter
    axes = torch.eye(3, dtype=points.dtype, device=points.device)[None]
    return distance_field_reference(
        near, torch.empty(0), centres, axes, [], [], size, _VOXEL, _TRUNCATION
    )


def _tree(points: Tensor, centres: Tensor, size: int) -> Tensor:
    """Build a tree and query it for all voxels, on all cores, up to the truncation."""
    steps = _VOXEL * (np.arange(size) - (size - 1) / 2)
    z, y, x = np.meshgrid(steps, steps, steps, indexing="ij")
    voxels = np.stack([x, y, z], -1).reshape(1, -1, 3) + centres.numpy()[:, None]
    reach = _VOXEL * _TRUNCATION
    tree = cKDTree(points.numpy())
    workers = os.cpu_count() or 1
    distance = tree.query(voxels, distance_upper_bound=reach, workers=workers)[0]
    field = 1 - np.minimum(distance, reach) / reach
    return torch.from_numpy(field.astype(points.numpy().dtype)).view(-1, size, size, size)


SUITE = Suite(_case, "points,keypoints,side,voxels", _SHAPES)
