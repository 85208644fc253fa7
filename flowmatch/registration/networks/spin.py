"""A descriptor that is invariant to rotations about the normal."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.registration.networks.base import SIZE, FieldDescriptor

CIRCLES, DIRECTIONS = 14, 36  # samples of an unrolled field along the radius and the angle


class Spin(FieldDescriptor):
    """A field unrolled around its normal and described by 2-D convolutions.

    The z axis of a local reference frame, the normal, is estimated reliably, its x axis is not.
    The field is therefore sampled along 36 directions around z and 14 circles, with heights as
    channels; the convolutions wrap around in angle, and the maximum over all angles is the
    descriptor. 2-D convolutions are also several times faster than 3-D ones.

    Args:
        channels: Channels of the first layers; the later ones have twice as many.
        dimensions: Length of the descriptor, which has unit length.
        detail: Field voxels per voxel of the scan: with 1.25, a scan of 5 cm voxels is described
            by fields 1.2 m wide.

    Example:
        >>> import torch
        >>> Spin(4, 8)(torch.zeros(2, 30, 30, 30)).shape
        torch.Size([2, 8])

    Reference:
        After Ao et al., SpinNet, CVPR 2021 (a cylinder around the normal, convolved around it).
    """

    frame_radius = 7.5
    places: Tensor

    def __init__(self, channels: int = 64, dimensions: int = 32, *, detail: float = 1.25) -> None:
        super().__init__(dimensions, unit=True, frames=True, detail=detail)
        if channels < 1:
            raise ValueError(f"channels must be positive, got {channels}")
        self.levels = nn.Sequential(
            _Ring(SIZE, channels),
            _Ring(channels, channels),
            nn.MaxPool2d(2),  # 7 circles, 18 directions
            _Ring(channels, 2 * channels),
            _Ring(2 * channels, 2 * channels),
            nn.MaxPool2d((2, 1)),  # 3 circles
            _Ring(2 * channels, 2 * channels, pad_radius=False),
        )
        self.feature = nn.Linear(2 * channels, dimensions)
        self.register_buffer("places", _polar_places(), persistent=False)

    def _describe(self, fields: Tensor) -> Tensor:
        places = self.places.expand(len(fields), -1, -1, -1)
        # Heights lie along z already, so bilinear interpolation in each slice suffices.
        unrolled = F.grid_sample(fields[:, 0], places, align_corners=False)
        descriptors: Tensor = self.feature(self.levels(unrolled).amax(dim=(2, 3)))
        return descriptors


class _Ring(nn.Module):
    """A convolution that wraps around in angle, with batch normalisation and ReLU.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        pad_radius: Whether the radius is zero-padded; else it shrinks by two circles.
    """

    def __init__(self, inputs: int, outputs: int, *, pad_radius: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=(int(pad_radius), 0), bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(F.pad(x, (1, 1, 0, 0), mode="circular"))))


def _polar_places() -> Tensor:
    """Return the sample positions of a polar grid in a slice, ``[1, 14, 36, 2]``, -1 to 1."""
    radii = (torch.arange(CIRCLES) + 0.5) / (SIZE / 2)
    angles = torch.arange(DIRECTIONS) * (2 * torch.pi / DIRECTIONS)
    return (radii[:, None, None] * torch.stack([angles.cos(), angles.sin()], -1))[None]
