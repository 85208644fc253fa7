"""A network that describes whole pictures: a trunk, a pooling, a whitening; and its weights."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.align.backbones import SmallBackbone
from flowmatch.devices import choose_device
from flowmatch.retrieval.pooling import GeM
from flowmatch.retrieval.whitening import Whitening
from flowmatch.zoo import WeightStore, file_digest


class SignedMaps(nn.Module):
    """A trunk's features and their negatives, what is below 0 left out of both.

    A generalised mean knows no numbers below 0, and half of what a trunk without a ReLU at its end
    says is there.

    Args:
        trunk: ``[B, 3, H, W]`` to ``[B, C, h, w]``.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, image: Tensor) -> Tensor:
        """RGB in [0, 1], ``[B, 3, H, W]``, to ``[B, 2 C, h, w]``, none below 0."""
        features = self.trunk((image - 0.45) / 0.225).float()
        return torch.cat([F.relu(features), F.relu(-features)], 1)


class RetrievalNet(nn.Module):
    """Describe pictures: `SmallBackbone`, `GeM`, and a whitening that is learnt after them.

    Args:
        width: Of the trunk; descriptors have eight times as many numbers.
        front: Of the trunk.

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
    def from_trunk(cls, trunk: nn.Module) -> "RetrievalNet":
        """Begin with the weights of a trunk that was trained for something else.

        Raises:
            ValueError: It is no `SmallBackbone`.

        Example:
            >>> RetrievalNet.from_trunk(SmallBackbone(8)).arguments
            {'width': 8, 'front': 'colour'}
        """
        if not isinstance(trunk, SmallBackbone):
            raise ValueError(f"expected a SmallBackbone, got {type(trunk).__name__}")
        network = cls(trunk.width, trunk.front)
        network.maps.trunk.load_state_dict(trunk.state_dict())
        return network

    def pooled(self, image: Tensor) -> Tensor:
        """Describe without the whitening, which is not trained with the rest.

        Args:
            image: RGB in [0, 1], ``[B, 3, H, W]``.

        Returns:
            ``[B, 8 width]`` of length 1.
        """
        return F.normalize(self.pooling(self.maps(image)), dim=1)

    def forward(self, image: Tensor) -> Tensor:
        """Describe ``[B, 3, H, W]`` by ``[B, 8 width]`` of length 1."""
        return self.whitening.apply(self.pooled(image))

    @property
    def whitening(self) -> Whitening:
        """The whitening; before one is learnt, nothing is changed."""
        return Whitening(self.get_buffer("mean"), self.get_buffer("projection"))

    @whitening.setter
    def whitening(self, learnt: Whitening) -> None:
        self.get_buffer("mean").copy_(learnt.mean)
        self.get_buffer("projection").copy_(learnt.projection)


MODELS: Mapping[str, Callable[..., nn.Module]] = {"retrieval": RetrievalNet}
STORE = WeightStore("retrieval", MODELS)


def find_network(weights: str | Path, device: str | None = None) -> tuple[RetrievalNet, str]:
    """Read a network, and a word for it that changes with its weights.

    Args:
        weights: A file that ``flowmatch train retrieval`` wrote.
        device: Where to put it; None takes the best there is.

    Returns:
        The network in eval mode, and the word.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of another network, or damaged.
    """
    path = STORE.find(weights=weights)
    network = STORE.read(path).to(choose_device(device)).eval()
    assert isinstance(network, RetrievalNet)
    return network, file_digest(path)
