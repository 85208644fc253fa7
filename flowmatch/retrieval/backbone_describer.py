"""Global descriptors by a convolutional backbone: pooling, several scales, whitening."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from flowmatch.imaging import Image, as_rgb, resize_within
from flowmatch.matching.compare import evaluating
from flowmatch.matching.describe import device_of
from flowmatch.retrieval.network import RetrievalNet
from flowmatch.retrieval.pooling import GeM
from flowmatch.retrieval.whitening import Whitening

SCALES = (1.0, 2**-0.5, 0.5)
"""Scales at which Radenovic et al. describe an image."""
PREFIX = "backbone "
"""First word of `BackboneDescriber.about`."""
_NETWORK_SIDE = 256  # pixels of the longer side, twice the training size of the small recipe
_MIN_SIDE = 32  # sides of a smaller image would leave the backbone nothing to pool


class BackboneDescriber:
    """Describe images by a backbone, a pooling, several scales and a whitening.

    Args:
        backbone: Network from ``[B, 3, H, W]``, RGB in [0, 1], to a map ``[B, C, h, w]``; it
            normalises its input itself.
        name: Name of its weights in `about`.
        pooling: Module from ``[B, C, h, w]`` to ``[B, C]``; None takes `GeM`.
        whitening: Whitening of the descriptors; None leaves them as they are.
        scales: Scales at which an image is described; the generalised mean of the descriptors is
            taken.
        power: Exponent of that mean. The authors use the pooling's p.
        side: Longer side, pixels, to which images are reduced.

    Raises:
        ValueError: An argument is not positive.

    Example:
        >>> backbone = nn.Conv2d(3, 8, 3, stride=4)
        >>> image = np.zeros((64, 96, 3), np.uint8)
        >>> BackboneDescriber(backbone, name="one convolution")(image).shape
        torch.Size([8])

    Reference:
        Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, PAMI 2019.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        name: str,
        pooling: nn.Module | None = None,
        whitening: Whitening | None = None,
        scales: Sequence[float] = (1.0,),
        power: float = 1.0,
        side: int = 1024,
    ) -> None:
        if not scales or min(scales) <= 0 or side < 1 or power <= 0:
            raise ValueError(f"scales, power, side must be positive, got {scales}, {power}, {side}")
        self.backbone = backbone
        self.pooling = (GeM() if pooling is None else pooling).to(device_of(backbone))
        self.whitening, self.scales, self.power, self.side = whitening, scales, power, side
        parts = f"{type(self.pooling).__name__} scales={list(scales)} power={power} side={side}"
        self.about = f"{PREFIX}{name} {parts} whitening={whitening is not None}"

    @classmethod
    def of_network(
        cls, network: RetrievalNet, name: str, *, whiten: bool = True
    ) -> "BackboneDescriber":
        """Describe by a retrieval network, at three scales.

        Args:
            network: The network.
            name: Name of its weights in `about`.
            whiten: Whether its whitening is applied.
        """
        return cls(
            network.maps,
            name=name,
            pooling=network.pooling,
            whitening=network.whitening if whiten else None,
            scales=SCALES,
            side=_NETWORK_SIDE,
        )

    def fit(self, images: Iterable[Image]) -> None:
        """Do nothing: backbone, pooling and whitening are trained already."""

    def state(self) -> dict[str, Tensor]:
        """Return an empty state: `about` determines the descriptors."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Do nothing."""

    def __call__(self, image: ArrayLike) -> Tensor:
        """Describe a uint8 image by ``[C]``, or by as many dimensions as the whitening has."""
        rgb = np.array(as_rgb(resize_within(np.asarray(image), self.side)))  # a writable copy
        tensor = (
            torch.from_numpy(rgb).to(device_of(self.backbone)).permute(2, 0, 1)[None].float() / 255
        )
        with evaluating(self.backbone):
            descriptor = describe_scales(
                self.backbone, self.pooling, tensor, scales=self.scales, power=self.power
            )
        if self.whitening is not None:
            descriptor = self.whitening.apply(descriptor)
        return descriptor[0].float().cpu()


def describe_scales(
    backbone: nn.Module,
    pooling: nn.Module,
    images: Tensor,
    *,
    scales: Sequence[float] = SCALES,
    power: float = 1.0,
) -> Tensor:
    """Describe images at several scales, and take the generalised mean of the descriptors.

    Args:
        backbone: Network from ``[B, 3, H, W]`` to ``[B, C, h, w]``.
        pooling: Module from ``[B, C, h, w]`` to ``[B, C]``.
        images: ``[B, 3, H, W]``.
        scales: Factors of the sides, which are never reduced below 32 pixels.
        power: Exponent of the mean; other than 1 only for descriptors without negative numbers.

    Returns:
        ``[B, C]`` of unit length.

    Example:
        >>> descriptors = describe_scales(nn.Identity(), GeM(), torch.rand(2, 3, 64, 64))
        >>> descriptors.norm(dim=1).round(decimals=4).tolist()
        [1.0, 1.0]

    Reference:
        Radenovic et al., PAMI 2019, with the scales 1, 1/sqrt(2), 1/2.
    """
    total = images.new_zeros(())
    for scale in scales:
        size = [max(round(side * scale), min(side, _MIN_SIDE)) for side in images.shape[2:]]
        scaled = images
        if size != list(images.shape[2:]):
            scaled = F.interpolate(images, size, mode="bilinear", antialias=scale < 1)
        total = total + F.normalize(pooling(backbone(scaled)), dim=1).pow(power)
    return F.normalize((total / len(scales)).pow(1 / power), dim=1)
