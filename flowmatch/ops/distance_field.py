"""Truncated distance fields around keypoints of a point cloud, the input of 3DMatch."""

from typing import Any, NoReturn

import torch
from torch import Tensor

from flowmatch.ops import _native
from flowmatch.ops._checks import FLOATS, check_devices, check_kernel
from flowmatch.ops._derivatives import register_derivatives
from flowmatch.ops._types import finest, wide

# points [P, 3], ordered by keys [P], the indices of their cells; frames [K, 3, 3]; counts: numbers
# of cells along x, y and z; grid: origin x, y, z and side of the cells.
torch.library.define(
    "flowmatch::distance_field",
    "(Tensor points, Tensor keys, Tensor centres, Tensor frames, int[] counts, float[] grid, "
    "int size, float voxel, float truncation) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
# Includes the sorting of the cloud into cells, which torch.compile then does not have to trace.
torch.library.define(
    "flowmatch::cloud_distance_field",
    "(Tensor points, Tensor centres, Tensor frames, int size, float voxel, float truncation) "
    "-> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
_NAME = "distance_field"
_CHUNK = 2**24  # number of distances in memory at a time, in the reference


def distance_field_reference(
    points: Tensor,
    keys: Tensor,
    centres: Tensor,
    frames: Tensor,
    counts: list[int],
    grid: list[float],
    size: int,
    voxel: float,
    truncation: float,
) -> Tensor:
    """State what the op computes, in plain PyTorch: the distances of all voxels to all points."""
    steps = voxel * (torch.arange(size, device=points.device, dtype=points.dtype) - (size - 1) / 2)
    z, y, x = torch.meshgrid(steps, steps, steps, indexing="ij")
    local = torch.stack([x, y, z], -1).view(-1, 3)
    out = points.new_zeros(len(centres), size**3)
    reach = voxel * truncation
    step = max(1, _CHUNK // max(1, len(points)))
    for k in range(len(centres) if len(points) else 0):
        near = points - centres[k]  # precise however far the cloud is from the origin
        voxels = local @ frames[k]
        for start in range(0, size**3, step):
            part = torch.cdist(
                voxels[start : start + step], near, compute_mode="donot_use_mm_for_euclid_dist"
            )
            out[k, start : start + step] = 1 - part.min(1)[0].clamp(max=reach) / reach
    return out.view(-1, size, size, size)


torch.library.impl("flowmatch::distance_field", "default")(
    _native.reference(distance_field_reference)
)


def _check_kernel(
    points: Tensor, centres: Tensor, frames: Tensor, size: int, voxel: float, truncation: float
) -> None:
    fits = centres.dim() == 2 and centres.shape[1] == 3
    fits = fits and frames.shape == (centres.shape[0], 3, 3)
    check_kernel(_NAME, fits, "centres and frames must be [K, 3] and [K, 3, 3]")
    same = len({(t.dtype, t.device) for t in (points, centres, frames)}) == 1
    check_kernel(_NAME, same, "all tensors must have the same type and device")
    is_wide = points.dtype in (torch.float32, torch.float64)
    check_kernel(_NAME, is_wide, "float32 or float64 is needed")
    fits = 1 <= size <= 256 and voxel > 0 and 0 < truncation <= 64
    check_kernel(_NAME, fits, "counts, grid, size, voxel or truncation is out of range")


@torch.library.register_fake("flowmatch::distance_field")  # type: ignore[untyped-decorator]
def _(
    points: Tensor,
    keys: Tensor,
    centres: Tensor,
    frames: Tensor,
    counts: list[int],
    grid: list[float],
    size: int,
    voxel: float,
    truncation: float,
) -> Tensor:
    fits = points.dim() == 2 and points.shape[1] == 3 and keys.dim() == 1
    fits = fits and keys.shape[0] == points.shape[0] and keys.dtype == torch.int64
    check_kernel(_NAME, fits, "points and keys must be [P, 3] and int64 [P]")
    _check_kernel(points, centres, frames, size, voxel, truncation)
    fits = keys.device == points.device and len(counts) == 3 and len(grid) == 4 and grid[3] > 0
    check_kernel(_NAME, fits, "counts, grid, size, voxel or truncation is out of range")
    return points.new_empty(centres.shape[0], size, size, size)


@torch.library.impl("flowmatch::cloud_distance_field", "default")
def _sort_and_measure(
    points: Tensor, centres: Tensor, frames: Tensor, size: int, voxel: float, truncation: float
) -> Tensor:
    """Sort the points near any keypoint into cells, and compute the fields."""
    _check_kernel(points, centres, frames, size, voxel, truncation)
    reach = 1.8 * ((size - 1) / 2 + truncation) * voxel  # more than sqrt(3): any rotation
    valid = centres.isfinite().all(1) & frames.isfinite().flatten(1).all(1)
    if len(points) == 0 or not valid.any():
        return points.new_zeros(len(centres), size, size, size)
    centres = torch.where(valid[:, None], centres, centres[valid][0])
    low, high = centres.amin(0) - reach, centres.amax(0) + reach
    points = points[((points >= low) & (points <= high)).all(1)]  # removes NaN, too
    extents: list[float] = (high - low).tolist()
    cell = max(4 * voxel, max(extents) / 2**20)  # three counts must fit into a key
    index = ((points - low).to(finest(points.device)) / cell).long()
    counts = [int(side / cell) + 1 for side in extents]
    flat = (index[:, 2] * counts[1] + index[:, 1]) * counts[0] + index[:, 0]
    keys, order = flat.sort(stable=True)
    grid = [*low.tolist(), cell]
    field: Tensor = torch.ops.flowmatch.distance_field(
        points[order], keys, centres, frames, counts, grid, size, voxel, truncation
    )
    return torch.where(valid[:, None, None, None], field, 0)


@torch.library.register_fake("flowmatch::cloud_distance_field")  # type: ignore[untyped-decorator]
def _(
    points: Tensor, centres: Tensor, frames: Tensor, size: int, voxel: float, truncation: float
) -> Tensor:
    _check_kernel(points, centres, frames, size, voxel, truncation)
    return points.new_empty(centres.shape[0], size, size, size)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.mark_non_differentiable(output)


def _not_differentiable(ctx: Any, *_: Any) -> NoReturn:
    raise NotImplementedError("distance_field is not differentiable; detach points and centres")


for _op in ("distance_field", "cloud_distance_field"):
    register_derivatives(_op, _setup, _not_differentiable, _not_differentiable)


def _check(
    points: Tensor,
    centres: Tensor,
    frames: Tensor | None,
    size: int,
    voxel: float,
    truncation: float,
) -> None:
    if points.dim() != 2 or points.shape[1] != 3 or centres.dim() != 2 or centres.shape[1] != 3:
        raise ValueError(
            "points and centres must be [P, 3] and [K, 3], "
            f"got {tuple(points.shape)} and {tuple(centres.shape)}"
        )
    if frames is not None and frames.shape != (centres.shape[0], 3, 3):
        raise ValueError(
            f"frames must be [K, 3, 3] for {centres.shape[0]} centres, got {tuple(frames.shape)}"
        )
    for name, t in (("points", points), ("centres", centres), ("frames", frames)):
        if t is not None and (t.dtype != points.dtype or t.dtype not in FLOATS):
            raise ValueError(f"{name} must be floats of the type of points, got {t.dtype}")
        if t is not None and t.device != points.device:
            raise ValueError(f"{name} must be on {points.device} as points are, got {t.device}")
        if t is not None:
            check_devices(name, t)
    if not (1 <= size <= 256 and 0 < voxel <= 1e12 and 0 < truncation <= 64):
        raise ValueError(
            "1 <= size <= 256, 0 < voxel <= 1e12 and 0 < truncation <= 64 are needed, "
            f"got {size}, {voxel} and {truncation}"
        )


def distance_field(
    points: Tensor,
    centres: Tensor,
    *,
    size: int = 30,
    voxel: float = 0.01,
    truncation: float = 5,
    frames: Tensor | None = None,
) -> Tensor:
    r"""Compute a grid of truncated distances to the point cloud around each keypoint.

    ``field[k, z, y, x] = 1 - min(d, t) / t`` with ``d`` the distance from the voxel's middle to the
    nearest point and ``t = truncation * voxel``: 1 on the surface, 0 far from it. Distances are
    exact and bit-identical from run to run. Points that are not finite are ignored, and keypoints
    that are not finite get zeros. Not differentiable: reverse mode has no gradient, forward mode
    raises. On a GPU the op waits for the device, so that CUDA graphs cannot capture it.

    Args:
        points: The cloud, ``[P, 3]`` (x, y, z), metres, any float type; half types are computed in
            float32.
        centres: Keypoints ``[K, 3]``, of the same type.
        size: Number of voxels along each side of the grid, centred at the keypoint.
        voxel: Side of a voxel, metres.
        truncation: Truncation distance, in voxels.
        frames: Rotations ``[K, 3, 3]`` whose rows are the x, y and z axes of the grid, such as
            local reference frames; None: the axes of the cloud.

    Returns:
        Fields ``[K, size, size, size]``, z slowest, float32 (float64 for float64 points).

    Raises:
        ValueError: Shapes, types or devices do not match, or a size is out of range.
        NotImplementedError: An input has a forward-mode tangent.

    Example:
        >>> field = distance_field(torch.zeros(1, 3), torch.zeros(1, 3), size=3, truncation=2)
        >>> field[0, 1, 1]
        tensor([0.5000, 1.0000, 0.5000])

    Reference:
        Zeng et al., 3DMatch, CVPR 2017, section 4.1.
    """
    _check(points, centres, frames, size, voxel, truncation)
    kind = wide(points.dtype)
    cloud, keypoints = (t.to(kind) for t in (points, centres))
    if frames is None:
        axes = torch.eye(3, dtype=kind, device=points.device).repeat(centres.shape[0], 1, 1)
    else:
        axes = frames.to(kind)
    field: Tensor = torch.ops.flowmatch.cloud_distance_field(
        cloud, keypoints, axes, size, float(voxel), float(truncation)
    )
    return field
