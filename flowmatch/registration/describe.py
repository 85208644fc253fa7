"""Descriptors of keypoints: by a network from distance fields, or FPFH."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from flowmatch.ops import distance_field
from flowmatch.progress import ProgressCallback
from flowmatch.registration.fpfh import fpfh
from flowmatch.registration.keypoints import Points, as_points, voxel_down
from flowmatch.registration.networks import SIZE
from flowmatch.registration.normals import local_frames
from flowmatch.registration.store import Descriptor, load_descriptor

_FPFH_RADIUS = 8.0  # voxels of the cloud whose normals were estimated


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
    """Compute the distance fields around keypoints, the input of descriptor networks.

    Args:
        points: The cloud ``[N, 3]``, metres; one point per `voxel` is enough.
        keypoints: ``[K, 3]``.
        voxel: Side of the field's voxels, metres; a field has 30 along a side.
        truncation: Truncation distance, in voxels.
        frames: Whether each field is aligned to its keypoint's local reference frame.
        frame_radius: Radius of the neighbourhood that determines the frame, in voxels. A ball
            that leaves the grid would make the frame depend on points outside the field.
        sides: With `frames`, vectors ``[K, 3]`` that choose the sign of z: normals, or directions
            to the sensor.
        device: Device of the computation and the result.

    Returns:
        Fields ``[K, 30, 30, 30]``, float32.

    Example:
        >>> field_patches([[0.0, 0, 0]], [[0.0, 0, 0]])[0, 15, 15, 15].item() > 0.8
        True
    """
    cloud, centres = as_points(points), as_points(keypoints, "keypoints")
    axes = None
    if frames:
        # One point per two voxels, so that the neighbour limit covers the whole radius.
        coarse = voxel_down(cloud, 2 * voxel)
        rotations = local_frames(coarse, centres, frame_radius * voxel, sides=sides)
        axes = torch.from_numpy(rotations).float().to(device)
    # Relative to the mean: far from the origin float32 would lose a voxel.
    origin = centres.mean(0) if len(centres) else np.zeros(3)
    near, at = (torch.from_numpy(p - origin).float().to(device) for p in (cloud, centres))
    return distance_field(near, at, size=SIZE, voxel=voxel, truncation=truncation, frames=axes)


def describe_points(
    points: ArrayLike,
    keypoints: ArrayLike,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    voxel: float = 0.01,
    sides: ArrayLike | None = None,
    batch: int = 64,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Describe keypoints of a cloud by a network.

    Args:
        points: The cloud ``[N, 3]``, metres.
        keypoints: ``[K, 3]``.
        model: Name of shipped weights, a ``.safetensors`` file, or a network. It determines the
            truncation and whether fields are aligned to local reference frames.
        device: Device of the network; None takes a GPU where there is one, and leaves a given
            network on its device.
        voxel: Side of the field's voxels, metres: 0.01 as published. Larger voxels describe a
            larger neighbourhood at the same resolution.
        sides: Vectors ``[K, 3]`` that choose the sign of z of local reference frames, such as
            normals; see `field_patches`.
        batch: Keypoints per batch.
        progress: Called with the stage ``"describe"`` and the number of keypoints done.

    Returns:
        Descriptors ``[K, D]``, float32, on the CPU.

    Raises:
        ValueError: Wrong shapes, `batch` or `voxel` is not positive, or the model is unknown or
            ``"fpfh"``.
        FileNotFoundError: The file of weights does not exist.

    Example:
        >>> from flowmatch.registration.networks import slim
        >>> cloud = np.random.default_rng(0).uniform(0, 0.3, (500, 3))
        >>> describe_points(cloud, cloud[:3], model=slim(2, 4)).shape
        torch.Size([3, 4])
    """
    network = load_descriptor(model, device=device)
    if isinstance(network, str):
        raise ValueError(f"model must be a network here, got {network!r}")
    if batch < 1:
        raise ValueError(f"batch must be positive, got {batch}")
    cloud, centres = voxel_down(points, voxel), as_points(keypoints, "keypoints")
    directions = None if sides is None else as_points(sides, "sides")
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
                sides=None if directions is None else directions[start : start + batch],
                device=next(network.parameters()).device,
            )
            parts.append(network(fields).float().cpu())
            if progress is not None:
                progress("describe", min(start + batch, len(centres)), len(centres))
    return torch.cat(parts)


def describe_indices(
    descriptor: Descriptor,
    cloud: Points,
    normals: NDArray[np.float64],
    indices: NDArray[np.int64],
    *,
    voxel: float,
    dense: Points,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Describe selected points of a down-sampled cloud, ``[K, D]``.

    Args:
        descriptor: A network, or ``"fpfh"``.
        cloud: ``[N, 3]``, one point per voxel.
        normals: ``[N, 3]``.
        indices: Indices of the points to describe, ``[K]``.
        voxel: Side of the cloud's voxels, metres; the network's `detail` relates it to the field.
        dense: The cloud before down-sampling, for the network's field.
        progress: Called with the stage ``"describe"`` and the number of points done.

    Raises:
        ValueError: `descriptor` is another name.
    """
    if isinstance(descriptor, str):
        if descriptor != "fpfh":
            raise ValueError(f"descriptor must be a module or 'fpfh', got {descriptor!r}")
        descriptors = torch.from_numpy(fpfh(cloud, normals, _FPFH_RADIUS * voxel)[indices])
        if progress is not None:
            progress("describe", len(indices), len(indices))
        return descriptors
    return describe_points(
        dense,
        cloud[indices],
        model=descriptor,
        voxel=voxel / descriptor.detail,
        sides=normals[indices],
        progress=progress,
    )
