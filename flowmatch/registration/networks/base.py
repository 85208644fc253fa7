"""The base class of networks that describe a distance field around a keypoint."""

from torch import Tensor, nn

from flowmatch.units import unit_vectors

SIZE = 30  # voxels along a side of a field


class FieldDescriptor(nn.Module):
    """A network that describes distance fields, and the parameters of the fields it expects.

    Args:
        dimensions: Length of the descriptor.
        unit: Whether descriptors are scaled to unit length.
        frames: Whether fields are aligned to local reference frames, so that descriptors do not
            depend on the rotation of the cloud; else to the cloud's axes, as published.
        detail: Field voxels per voxel of the scan: with 5, a scan of 5 cm voxels is described by
            fields of 1 cm voxels, 30 cm wide, as published. A smaller value widens the field.
    """

    truncation = 5.0
    """Truncation distance of the field, in voxels."""
    frame_radius = 15.0
    """Radius of the neighbourhood that determines a local reference frame, in voxels."""

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
                it, z first, as `ops.distance_field` returns them.

        Returns:
            Descriptors ``[K, dimensions]``.

        Raises:
            ValueError: Another shape.
        """
        if fields.dim() == 4:
            fields = fields[:, None]
        if fields.dim() != 5 or fields.shape[1:] != (1, SIZE, SIZE, SIZE):
            raise ValueError(f"fields must be [K, 30, 30, 30], got {tuple(fields.shape)}")
        descriptors = self._describe(fields)
        return unit_vectors(descriptors, dim=1) if self.unit else descriptors

    def _describe(self, fields: Tensor) -> Tensor:
        raise NotImplementedError
