"""Networks that describe a distance field around a keypoint."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 30  # voxels along a side of the field
CIRCLES, DIRECTIONS = 14, 36  # that an unrolled field is read at


class FieldDescriptor(nn.Module):
    """What networks that describe distance fields share: how the fields they want are made.

    Args:
        dimensions: Of the descriptor.
        unit: Scale descriptors to length 1.
        frames: The fields lie along local reference frames, and so turn with the cloud; else along
            the cloud's axes, as published.
        detail: Voxels of a field along one of the scan's: at 5 a scan of 5 cm is described by
            fields of 1 cm and so 30 cm wide, as published. With fewer a field shows more.
    """

    truncation = 5.0
    """Distance that counts as far, in voxels."""
    frame_radius = 15.0
    """Of the neighbourhood that a local reference frame is found in, in voxels."""

    def __init__(self, dimensions: int, *, unit: bool, frames: bool, detail: float) -> None:
        super().__init__()
        if dimensions < 1 or not detail > 0:
            raise ValueError(
                f"dimensions and detail must be positive, got {dimensions} and {detail}"
            )
        self.dimensions, self.unit = dimensions, unit
        self.frames, self.detail = frames, detail

    def forward(self, fields: Tensor) -> Tensor:
        """Describe fields.

        Args:
            fields: ``[K, 30, 30, 30]`` or ``[K, 1, 30, 30, 30]``, 1 on the surface to 0 far from
                it, z first, as `ops.distance_field` gives them.

        Returns:
            Descriptors ``[K, dimensions]``.

        Raises:
            ValueError: Another shape.
        """
        if fields.dim() == 4:
            fields = fields[:, None]
        if fields.dim() != 5 or fields.shape[1:] != (1, SIZE, SIZE, SIZE):
            raise ValueError(f"fields must be [K, 30, 30, 30], got {tuple(fields.shape)}")
        described = self._describe(fields)
        return F.normalize(described, dim=1) if self.unit else described

    def _describe(self, fields: Tensor) -> Tensor:
        raise NotImplementedError


class Descriptor3D(FieldDescriptor):
    """3DMatch: eight 3-D convolutions without padding, then a linear layer.

    Args:
        channels: Of the first layer: 64 as published, 16 for the slim one. The others have 1, 2,
            2, 4, 4, 8 and 8 times as many.
        dimensions: As in `FieldDescriptor`, and so the rest.
        unit: Scale descriptors to length 1.
        frames: The fields lie along local reference frames.
        detail: Voxels of a field along one of the scan's.

    Example:
        >>> import torch
        >>> Descriptor3D(4, 8)(torch.zeros(2, 30, 30, 30)).shape
        torch.Size([2, 8])

    Reference:
        Zeng et al., 3DMatch, CVPR 2017, section 4; layers from the authors' training/net.json.
    """

    def __init__(
        self,
        channels: int = 64,
        dimensions: int = 512,
        *,
        unit: bool = False,
        frames: bool = False,
        detail: float = 5.0,
    ) -> None:
        super().__init__(dimensions, unit=unit, frames=frames, detail=detail)
        if channels < 1:
            raise ValueError(f"channels must be positive, got {channels}")
        widths = [1, *(factor * channels for factor in (1, 1, 2, 2, 4, 4, 8, 8))]
        self.convolutions = nn.ModuleList(
            nn.Conv3d(a, b, 3) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.feature = nn.Conv3d(widths[-1], dimensions, 1)
        for layer in (*self.convolutions, self.feature):
            nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("relu"))
            nn.init.zeros_(layer.bias)

    def _describe(self, fields: Tensor) -> Tensor:
        x = fields
        for k, layer in enumerate(self.convolutions):
            x = F.relu(layer(x))
            if k == 1:
                x = F.max_pool3d(x, 2)
        described: Tensor = self.feature(x)
        return described.flatten(1)


class SpinDescriptor(FieldDescriptor):
    """A field unrolled around its normal, so that the least sure axis of its frame does not matter.

    A frame's z, the normal, is found well, its x hardly. The field is read along 36 directions
    around z and 14 circles, heights being channels; 2-D convolutions wrap around in angle, and the
    largest answer of all angles counts. Plane convolutions are also several times faster.

    Args:
        channels: Of the first layers; the later ones have twice as many.
        dimensions: Of the descriptor, of unit length.
        detail: As in `FieldDescriptor`: a scan of 5 cm is described by fields 1.2 m wide.

    Example:
        >>> import torch
        >>> SpinDescriptor(4, 8)(torch.zeros(2, 30, 30, 30)).shape
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
            _Ring(2 * channels, 2 * channels, inwards=True),
        )
        self.feature = nn.Linear(2 * channels, dimensions)
        self.register_buffer("places", _polar_places(), persistent=False)

    def _describe(self, fields: Tensor) -> Tensor:
        places = self.places.expand(len(fields), -1, -1, -1)
        # Heights lie along z already: a plane's interpolation is enough.
        unrolled = F.grid_sample(fields[:, 0], places, align_corners=False)
        described: Tensor = self.feature(self.levels(unrolled).amax(dim=(2, 3)))
        return described


class _Ring(nn.Module):
    """A convolution that wraps around in angle, normalised, rectified.

    `inwards`: it takes all three circles that are left at once.
    """

    def __init__(self, inputs: int, outputs: int, *, inwards: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=(0 if inwards else 1, 0), bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(F.pad(x, (1, 1, 0, 0), mode="circular"))))


def _polar_places() -> Tensor:
    """Return where circles and directions lie in a slice, ``[1, 14, 36, 2]``, -1 to 1."""
    radii = (torch.arange(CIRCLES) + 0.5) / (SIZE / 2)
    angles = torch.arange(DIRECTIONS) * (2 * torch.pi / DIRECTIONS)
    return (radii[:, None, None] * torch.stack([angles.cos(), angles.sin()], -1))[None]


def published(**arguments: object) -> Descriptor3D:
    """Build 3DMatch as published: 14,311,488 parameters, 512 numbers."""
    return Descriptor3D(**arguments)  # type: ignore[arg-type]


def slim(
    channels: int = 16,
    dimensions: int = 32,
    *,
    unit: bool = True,
    frames: bool = True,
    detail: float = 2.5,
) -> Descriptor3D:
    """Build a quarter of its channels: 0.9 M parameters, 32 numbers of length 1.

    Its fields are twice as wide as published: 60 cm in a room's scan of 5 cm.
    """
    return Descriptor3D(channels, dimensions, unit=unit, frames=frames, detail=detail)


MODELS: dict[str, Callable[..., FieldDescriptor]] = {
    "3dmatch": published,
    "slim": slim,
    "spin": SpinDescriptor,
}
