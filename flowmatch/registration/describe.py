"""Descriptors of keypoints: by a network from distance fields, or FPFH."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flowmatch.ops import distance_field
from flowmatch.registration.fpfh import fpfh
from flowmatch.registration.keypoints import Points, as_points, voxel_down
from flowmatch.registration.networks import SIZE, FieldDescriptor
from flowmatch.registration.normals import local_frames

Network = FieldDescriptor | str
"""A network of `MODELS`, or ``"fpfh"``."""

_FPFH_RADIUS = 8.0  # voxels of the cloud that normals are estimated on


def field_patches(
    points: ArrayLike,
    keypoints: ArrayLike,
    *,
    voxel: float = 0.01,
    truncation: float = 5.0,
    frames: bool = False,
    frame_radius: float = 15.0,
    sides: ArrayLike | None = None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Measure the distance fields that a network describes.

    Args:
        points: The cloud ``[N, 3]``, metres; one a `voxel` is enough.
        keypoints: ``[K, 3]``.
        voxel: Side of the field's voxels, metres; it has 30 along a side.
        truncation: Distance that counts as far, in voxels.
        frames: Turn each field to its keypoint's local reference frame.
        frame_radius: Of the neighbourhood that the frame is found in, in voxels; beyond a ball
            inside the grid the frame would see what the grid does not.
        sides: With `frames`, vectors ``[K, 3]`` whose side of the surface z takes: normals, or the
            way to the sensor.
        device: Where to measure.

    Returns:
        Fields ``[K, 30, 30, 30]``, float32.

    Example:
        >>> field_patches([[0.0, 0, 0]], [[0.0, 0, 0]])[0, 15, 15, 15].item() > 0.8
        True
    """
    cloud, centres = as_points(points), as_points(keypoints, "keypoints")
    axes = None
    if frames:
        # One point in two voxels: as many as are looked at then lie within the radius.
        coarse = voxel_down(cloud, 2 * voxel)
        turned = local_frames(coarse, centres, frame_radius * voxel, sides=sides)
        axes = torch.from_numpy(turned).float().to(device)
    # In float32, so from the middle: far from the origin a voxel would be lost.
    middle = centres.mean(0) if len(centres) else np.zeros(3)
    near, at = (torch.from_numpy(p - middle).float().to(device) for p in (cloud, centres))
    return distance_field(near, at, size=SIZE, voxel=voxel, truncation=truncation, frames=axes)


def describe(
    network: Network,
    points: ArrayLike,
    keypoints: ArrayLike,
    *,
    voxel: float = 0.01,
    sides: ArrayLike | None = None,
    batch: int = 64,
    device: str | torch.device | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Describe keypoints of a cloud by a network.

    Args:
        network: One of `MODELS`. It knows its truncation and whether fields lie along local
            reference frames.
        points: The cloud ``[N, 3]``, metres.
        keypoints: ``[K, 3]``.
        voxel: Side of the field's voxels, metres: 0.01 as published. A larger one describes a
            larger scene at the same size in voxels.
        sides: As in `field_patches`, for a network whose fields lie along local reference frames.
        batch: Keypoints at once.
        device: Where to compute; None takes the network's.
        progress: Called with how many keypoints are done.

    Returns:
        Descriptors ``[K, D]``, float32, on the CPU.

    Raises:
        ValueError: Wrong shapes, or `batch` or `voxel` is not positive.

    Example:
        >>> from flowmatch.registration.networks import slim
        >>> cloud = np.random.default_rng(0).uniform(0, 0.3, (500, 3))
        >>> describe(slim(2, 4), cloud, cloud[:3]).shape
        torch.Size([3, 4])
    """
    if isinstance(network, str):
        raise ValueError(f"network must be a module here, got {network!r}")
    if batch < 1:
        raise ValueError(f"batch must be positive, got {batch}")
    cloud, centres = voxel_down(points, voxel), as_points(keypoints, "keypoints")
    given = None if sides is None else as_points(sides, "sides")
    where = torch.device(device) if device is not None else next(network.parameters()).device
    parts = [torch.zeros(0, network.dimensions)]
    with torch.inference_mode():
        for start in range(0, len(centres), batch):
            fields = field_patches(
                cloud,
                centres[start : start + batch],
                voxel=voxel,
                truncation=network.truncation,
                frames=network.frames,
                frame_radius=network.frame_radius,
                sides=None if given is None else given[start : start + batch],
                device=where,
            )
            parts.append(network(fields).float().cpu())
            progress(min(start + batch, len(centres)))
    return torch.cat(parts)


def describe_points(
    network: Network,
    cloud: Points,
    normals: NDArray[np.float64],
    chosen: NDArray[np.int64],
    *,
    voxel: float,
    dense: Points,
    progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Describe some points of a cloud that has one a voxel, ``[K, D]``.

    Args:
        network: A network, or ``"fpfh"``.
        cloud: ``[N, 3]``, one point a voxel.
        normals: ``[N, 3]``.
        chosen: Indices of the points to describe.
        voxel: The cloud's, metres; how many of them a field spans, the network knows.
        dense: The cloud as it came, for the network's field.
        progress: Called with how many points are done.

    Raises:
        ValueError: `network` is another word.
    """
    if isinstance(network, str):
        if network != "fpfh":
            raise ValueError(f"network must be a module or 'fpfh', got {network!r}")
        found = torch.from_numpy(fpfh(cloud, normals, _FPFH_RADIUS * voxel)[chosen])
        progress(len(chosen))
        return found
    side = voxel / network.detail
    return describe(
        network, dense, cloud[chosen], voxel=side, sides=normals[chosen], progress=progress
    )
