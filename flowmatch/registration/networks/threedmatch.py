"""The network of 3DMatch: 3-D convolutions over a distance field."""

import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.registration.networks.base import FieldDescriptor


class ThreeDMatch(FieldDescriptor):
    """3DMatch: eight 3-D convolutions without padding, then a linear layer.

    The defaults are the published network: 14,311,488 parameters, descriptors of length 512.

    Args:
        channels: Channels of the first layer. The others have 1, 2, 2, 4, 4, 8 and 8 times as
            many.
        dimensions: Length of the descriptor.
        unit: Whether descriptors are scaled to unit length.
        frames: Whether fields are aligned to local reference frames.
        detail: Field voxels per voxel of the scan.

    Example:
        >>> import torch
        >>> ThreeDMatch(4, 8)(torch.zeros(2, 30, 30, 30)).shape
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
        descriptors: Tensor = self.feature(x)
        return descriptors.flatten(1)


def slim(
    channels: int = 16,
    dimensions: int = 32,
    *,
    unit: bool = True,
    frames: bool = True,
    detail: float = 2.5,
) -> ThreeDMatch:
    """Build 3DMatch with a quarter of its channels: 0.9 M parameters, 32 numbers of unit length.

    Its fields are twice as wide as published: 60 cm for a scan of 5 cm voxels.
    """
    return ThreeDMatch(channels, dimensions, unit=unit, frames=frames, detail=detail)
