"""Networks that describe a distance field around a keypoint."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 30  # voxels along a side of the field


class Descriptor3D(nn.Module):
    """3DMatch: eight 3-D convolutions without padding, then a linear layer.

    Args:
        channels: Of the first layer: 64 as published, 16 for the slim one. The others have 1, 2,
            2, 4, 4, 8 and 8 times as many.
        dimensions: Of the descriptor.
        unit: Scale descriptors to length 1.
        frames: The fields lie along local reference frames, and so turn with the cloud; else along
            the cloud's axes, as published.
        detail: Voxels of a field along one of the scan's: at 5 a scan of 5 cm is described by
            fields of 1 cm and so 30 cm wide, as published. With fewer a field shows more.

    Example:
        >>> import torch
        >>> Descriptor3D(4, 8)(torch.zeros(2, 30, 30, 30)).shape
        torch.Size([2, 8])

    Reference:
        Zeng et al., 3DMatch, CVPR 2017, section 4; layers from the authors' training/net.json.
    """

    truncation = 5.0
    """Distance that counts as far, in voxels."""

    def __init__(
        self,
        channels: int = 64,
        dimensions: int = 512,
        *,
        unit: bool = False,
        frames: bool = False,
        detail: float = 5.0,
    ) -> None:
        super().__init__()
        if channels < 1 or dimensions < 1 or not detail > 0:
            raise ValueError(
                "channels, dimensions and detail must be positive, "
                f"got {channels}, {dimensions} and {detail}"
            )
        self.unit = unit
        self.frames = frames
        self.detail = detail
        self.dimensions = dimensions
        widths = [1, *(factor * channels for factor in (1, 1, 2, 2, 4, 4, 8, 8))]
        self.convolutions = nn.ModuleList(
            nn.Conv3d(a, b, 3) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.feature = nn.Conv3d(widths[-1], dimensions, 1)
        for layer in (*self.convolutions, self.feature):
            nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("relu"))
            nn.init.zeros_(layer.bias)

    def forward(self, fields: Tensor) -> Tensor:
        """Describe fields.

        Args:
            fields: ``[K, 30, 30, 30]`` or ``[K, 1, 30, 30, 30]``, 1 on the surface to 0 far from
                it, as `ops.distance_field` gives them.

        Returns:
            Descriptors ``[K, dimensions]``.

        Raises:
            ValueError: Another shape.
        """
        if fields.dim() == 4:
            fields = fields[:, None]
        if fields.dim() != 5 or fields.shape[1:] != (1, SIZE, SIZE, SIZE):
            raise ValueError(f"fields must be [K, 30, 30, 30], got {tuple(fields.shape)}")
        x = fields
        for k, layer in enumerate(self.convolutions):
            x = F.relu(layer(x))
            if k == 1:
                x = F.max_pool3d(x, 2)
        described = self.feature(x).flatten(1)
        return F.normalize(described, dim=1) if self.unit else described


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


MODELS: dict[str, Callable[..., Descriptor3D]] = {"3dmatch": published, "slim": slim}
