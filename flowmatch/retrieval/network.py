"""Network of global image descriptors: a backbone, a pooling and a whitening."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.align import load as load_align
from flowmatch.align.backbones import SmallBackbone
from flowmatch.retrieval.pooling import GeM
from flowmatch.retrieval.whitening import Whitening
from flowmatch.units import unit_vectors


class SignedMaps(nn.Module):
    """Positive and negative parts of a backbone's features, as separate channels.

    The generalised mean is defined for positive numbers only, and the backbone has no ReLU at its
    end, so that its negative features carry information, too.

    Args:
        backbone: Network from ``[B, 3, H, W]`` to ``[B, C, h, w]``.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB in [0, 1], ``[B, 3, H, W]``, to ``[B, 2 C, h, w]``, all at least 0."""
        features = self.backbone((image - 0.45) / 0.225).float()
        return torch.cat([F.relu(features), F.relu(-features)], 1)


class RetrievalNet(nn.Module):
    """Network that describes images: `SmallBackbone`, `GeM`, and a learned whitening.

    Args:
        width: Width of the backbone; descriptors have eight times as many dimensions.
        front: First layers of the backbone, see `SmallBackbone`.

    Example:
        >>> RetrievalNet(width=4).eval()(torch.rand(2, 3, 64, 96)).shape
        torch.Size([2, 32])

    Reference:
        Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, PAMI 2019.
    """

    def __init__(self, width: int = 20, front: str = "structure") -> None:
        super().__init__()
        self.arguments = {"width": width, "front": front}
        self.maps = SignedMaps(SmallBackbone(width, front))
        self.pooling = GeM()
        dim = 8 * width
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("projection", torch.eye(dim))

    @classmethod
    def from_backbone(cls, backbone: nn.Module) -> "RetrievalNet":
        """Build a network with the weights of a backbone that was trained for another task.

        Args:
            backbone: A `SmallBackbone`.

        Raises:
            ValueError: It is another network.

        Example:
            >>> RetrievalNet.from_backbone(SmallBackbone(8)).arguments
            {'width': 8, 'front': 'colour'}
        """
        if not isinstance(backbone, SmallBackbone):
            raise ValueError(f"expected a SmallBackbone, got {type(backbone).__name__}")
        network = cls(backbone.width, backbone.front)
        network.maps.backbone.load_state_dict(backbone.state_dict())
        return network

    def pooled(self, image: Tensor) -> Tensor:
        """Describe images without the whitening, which is not trained by gradients.

        Args:
            image: RGB in [0, 1], ``[B, 3, H, W]``.

        Returns:
            ``[B, 8 width]`` of unit length.
        """
        return unit_vectors(self.pooling(self.maps(image)), dim=1)

    def forward(self, image: Tensor) -> Tensor:
        """Describe ``[B, 3, H, W]``, RGB in [0, 1], by ``[B, 8 width]`` of unit length."""
        return self.whitening.apply(self.pooled(image))

    @property
    def whitening(self) -> Whitening:
        """The whitening, which is the identity until one is learned."""
        return Whitening(self.get_buffer("mean"), self.get_buffer("projection"))

    @whitening.setter
    def whitening(self, learned: Whitening) -> None:
        self.get_buffer("mean").copy_(learned.mean)
        self.get_buffer("projection").copy_(learned.projection)


MODELS: Mapping[str, Callable[..., nn.Module]] = {"retrieval": RetrievalNet}


def initial_network() -> RetrievalNet:
    """Return the network that training starts from, with the backbone of the alignment weights.

    Example:
        >>> initial_network().arguments["front"]
        'structure'
    """
    return RetrievalNet.from_backbone(load_align().get_submodule("backbone"))
