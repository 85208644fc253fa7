"""One descriptor a picture: from its local descriptors, or from any network's feature map."""

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from flowmatch._opencv import cv2
from flowmatch.matching import describe_keypoints, detect_keypoints
from flowmatch.matching.compare import evaluating
from flowmatch.matching.describe import device_of
from flowmatch.matching.networks import DescriptorNetwork
from flowmatch.retrieval.network import RetrievalNet
from flowmatch.retrieval.pooling import GeM
from flowmatch.retrieval.vocabulary import kmeans, vlad
from flowmatch.retrieval.whitening import Whitening

SCALES = (1.0, 2**-0.5, 0.5)  # at which Radenovic et al. describe a picture
_CLASSICAL = ("rootsift", "sift")
_VLAD = r"vlad (.+) words=(\d{1,9}) keypoints=(\d{1,9}) side=(\d{1,9}) seed=(-?\d{1,18})"
_TRUNK = "trunk "
_MOST_POINTS = 100_000  # local descriptors that a vocabulary is learnt from
_NETWORK_SIDE = 256  # pixels of the longer side, twice what the small recipe learns from
_SMALLEST = 32  # side below which a trunk has nothing left to pool


class Describer(Protocol):
    """What makes descriptors of pictures, and can be put into an index.

    Attributes:
        about: A line that says all that its descriptors depend on, but for `state`.
    """

    about: str

    def fit(self, images: Iterable[NDArray[np.uint8]]) -> None:
        """Learn from some pictures what has to be learnt, before the first description."""

    def state(self) -> dict[str, Tensor]:
        """Return what was learnt."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up again what `state` returned; ValueError if it does not fit."""

    def __call__(self, image: ArrayLike) -> Tensor:
        """Describe a uint8 picture by ``[D]`` of length 1 (0 where there is nothing in it)."""


def at_most(image: ArrayLike, side: int) -> NDArray[np.uint8]:
    """Shrink a picture so that its longer side has at most `side` pixels."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    share = side / max(height, width)
    if share >= 1:
        return pixels
    size = max(1, round(width * share)), max(1, round(height * share))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


class VladDescriber:
    """Describe pictures by VLAD over keypoints; needs no trained network.

    Args:
        descriptor: ``"rootsift"``, ``"sift"``, or a descriptor network of `flowmatch.matching`.
        name: What the network is, for the record; of the classical ones their own.
        words: Of the vocabulary.
        keypoints: At most, of each picture.
        side: Pixels that the longer side is shrunk to.
        seed: Of the vocabulary.

    Raises:
        ValueError: A number is not positive, or `descriptor` is another.

    Example:
        >>> textures = np.random.default_rng(0).integers(0, 255, (3, 12, 12), np.uint8)
        >>> images = [t.repeat(8, axis=0).repeat(8, axis=1) for t in textures]
        >>> describer = VladDescriber(words=4)
        >>> describer.fit(images)
        >>> describer(images[0]).shape
        torch.Size([512])

    Reference:
        See `vlad`.
    """

    def __init__(
        self,
        descriptor: DescriptorNetwork | str = "rootsift",
        *,
        name: str | None = None,
        words: int = 64,
        keypoints: int = 1000,
        side: int = 640,
        seed: int = 0,
    ) -> None:
        if min(words, keypoints, side) < 1:
            raise ValueError(
                f"words, keypoints and side must be positive, got {words}, {keypoints}, {side}"
            )
        if isinstance(descriptor, str) and descriptor not in _CLASSICAL:
            raise ValueError(f"descriptor must be rootsift, sift or a network, got {descriptor!r}")
        self.descriptor, self.words = descriptor, words
        self.keypoints, self.side, self.seed = keypoints, side, seed
        kind = descriptor if isinstance(descriptor, str) else name or type(descriptor).__name__
        self.about = f"vlad {kind} words={words} keypoints={keypoints} side={side} seed={seed}"
        self.vocabulary: Tensor | None = None

    @classmethod
    def from_about(
        cls,
        about: str,
        descriptor: DescriptorNetwork | str = "rootsift",
        name: str | None = None,
    ) -> "VladDescriber":
        """Make the describer that an index was made by.

        Args:
            about: What the index says.
            descriptor: The network, if it was one; classical ones are known by name.
            name: What the network is, to be compared with what the index says.

        Raises:
            ValueError: The index was made by something else, or needs a network.
        """
        found = re.fullmatch(_VLAD, about)
        if found is None:
            raise ValueError(f"expected an index made by VLAD, got {about!r}")
        kind = found[1]
        if kind in _CLASSICAL:
            descriptor = kind
        elif isinstance(descriptor, str):
            raise ValueError(f"the index was made with {kind!r}: give that network")
        elif name is not None and name != kind:
            raise ValueError(f"the index was made with {kind!r}, not with {name!r}")
        words, keypoints, side, seed = map(int, found.groups()[1:])
        return cls(
            descriptor, name=kind, words=words, keypoints=keypoints, side=side, seed=seed
        )  # fmt: skip

    def local(self, image: ArrayLike) -> Tensor:
        """Describe the keypoints of a picture, ``[N, D]``."""
        small = at_most(image, self.side)
        points = detect_keypoints(small, "sift", keypoints=self.keypoints)
        return describe_keypoints(small, points, model=self.descriptor)

    def fit(self, images: Iterable[NDArray[np.uint8]]) -> None:
        """Learn the vocabulary.

        Raises:
            ValueError: Fewer keypoints are found than there are to be words.
        """
        self.vocabulary = self.vocabulary_of([self.local(image) for image in images])

    def vocabulary_of(self, found: Sequence[Tensor]) -> Tensor:
        """Make visual words of the local descriptors of some pictures.

        Args:
            found: ``[N, D]`` of each.

        Returns:
            ``[words, D]``.

        Raises:
            ValueError: There are fewer descriptors than there are to be words.
        """
        points = torch.cat(list(found)) if found else torch.empty(0, 1)
        if len(points) < self.words:
            raise ValueError(
                f"{self.words} words need as many keypoints, got {len(points)} in {len(found)} "
                "pictures"
            )
        if len(points) > _MOST_POINTS:
            generator = torch.Generator().manual_seed(self.seed)
            kept = torch.randperm(len(points), generator=generator)[:_MOST_POINTS]
            points = points[kept.to(points.device)]
        return kmeans(points, self.words, seed=self.seed)

    def state(self) -> dict[str, Tensor]:
        """Return the vocabulary."""
        return {} if self.vocabulary is None else {"vocabulary": self.vocabulary.cpu()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take a vocabulary.

        Raises:
            ValueError: It has other sizes.
        """
        found = state.get("vocabulary")
        dim = 128 if isinstance(self.descriptor, str) else self.descriptor.dim
        if found is None or found.shape != (self.words, dim) or not found.isfinite().all():
            came = None if found is None else list(found.shape)
            raise ValueError(f"expected a finite vocabulary [{self.words}, {dim}], got {came}")
        self.vocabulary = found.float().to(device_of(self.descriptor))

    def __call__(self, image: ArrayLike) -> Tensor:
        """Describe a picture by ``[words * D]``; RuntimeError before a vocabulary is there."""
        if self.vocabulary is None:
            raise RuntimeError("there is no vocabulary yet: call fit or restore first")
        return vlad(self.local(image), self.vocabulary).cpu()


class TrunkDescriber:
    """Describe pictures by a trunk, a pooling, several scales and a whitening.

    Args:
        trunk: Any network from ``[B, 3, H, W]``, RGB from 0 to 1, to a map ``[B, C, h, w]``. What
            mean and deviation it wants is its own affair.
        name: What its weights are, for the record in an index.
        pooling: ``[B, C, h, w]`` to ``[B, C]``; None takes `GeM`.
        whitening: Applied at last; None leaves it out.
        scales: Each is described, and the generalised mean taken.
        power: Of that mean. The authors take the pooling's p.
        side: Pixels that the longer side is shrunk to.

    Example:
        >>> trunk = nn.Conv2d(3, 8, 3, stride=4)
        >>> image = np.zeros((64, 96, 3), np.uint8)
        >>> TrunkDescriber(trunk, name="one convolution")(image).shape
        torch.Size([8])

    Reference:
        Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, PAMI 2019.
    """

    def __init__(
        self,
        trunk: nn.Module,
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
        self.trunk = trunk
        self.pooling = (GeM() if pooling is None else pooling).to(device_of(trunk))
        self.whitening, self.scales, self.power, self.side = whitening, scales, power, side
        kinds = f"{type(self.pooling).__name__} scales={list(scales)} power={power} side={side}"
        self.about = f"{_TRUNK}{name} {kinds} whitening={whitening is not None}"

    @classmethod
    def of_network(
        cls, network: RetrievalNet, name: str, *, whiten: bool = True
    ) -> "TrunkDescriber":
        """Describe by a network of ``flowmatch train retrieval``, at three scales.

        Args:
            network: Such a network.
            name: What its weights are.
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

    def fit(self, images: Iterable[NDArray[np.uint8]]) -> None:
        """Do nothing: trunk, pooling and whitening come learnt."""

    def state(self) -> dict[str, Tensor]:
        """Return nothing: all is in `about`."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Do nothing."""

    def __call__(self, image: ArrayLike) -> Tensor:
        """Describe a picture by ``[C]``, or what the whitening makes of it."""
        pixels = np.array(at_most(image, self.side))  # a copy: torch takes no read-only ones
        if pixels.ndim == 2:
            pixels = pixels[..., None].repeat(3, axis=2)
        tensor = torch.from_numpy(pixels).to(device_of(self.trunk)).permute(2, 0, 1)[None] / 255
        with evaluating(self.trunk):
            found = describe_scales(
                self.trunk, self.pooling, tensor, scales=self.scales, power=self.power
            )
        if self.whitening is not None:
            found = self.whitening.apply(found)
        return found[0].float().cpu()


def describer_of(
    about: str,
    descriptor: DescriptorNetwork | str = "rootsift",
    name: str | None = None,
    network: tuple[RetrievalNet, str] | None = None,
) -> Describer:
    """Make again the describer that an index was made by.

    Args:
        about: What the index says.
        descriptor: The local network, if it was one.
        name: What that is.
        network: The network of whole pictures and its name, if it was one (`find_network`).

    Raises:
        ValueError: The index was made by something else, or needs a network.
    """
    if network is None:
        if about.startswith(_TRUNK):
            raise ValueError(f"the index was made by {about!r}: give those weights")
        return VladDescriber.from_about(about, descriptor, name)
    describer = TrunkDescriber.of_network(*network)
    if describer.about != about:
        raise ValueError(f"the index was made by {about!r}, not by {describer.about!r}")
    return describer


def describe_scales(
    trunk: nn.Module,
    pooling: nn.Module,
    images: Tensor,
    *,
    scales: Sequence[float] = SCALES,
    power: float = 1.0,
) -> Tensor:
    """Describe images at several scales, and take the generalised mean of the descriptors.

    Args:
        trunk: ``[B, 3, H, W]`` to ``[B, C, h, w]``.
        pooling: ``[B, C, h, w]`` to ``[B, C]``.
        images: ``[B, 3, H, W]``.
        scales: Factors of the sides, kept at 32 pixels at least.
        power: Of the mean; other than 1 for descriptors that are not negative.

    Returns:
        ``[B, C]`` of length 1.

    Example:
        >>> found = describe_scales(nn.Identity(), GeM(), torch.rand(2, 3, 64, 64))
        >>> found.norm(dim=1).round(decimals=4).tolist()
        [1.0, 1.0]

    Reference:
        As `TrunkDescriber`; there the scales are 1, 1/sqrt(2), 1/2.
    """
    total = torch.zeros((), device=images.device)
    for scale in scales:
        size = [max(round(side * scale), min(side, _SMALLEST)) for side in images.shape[2:]]
        seen = images
        if size != list(images.shape[2:]):
            seen = F.interpolate(images, size, mode="bilinear", antialias=scale < 1)
        total = total + F.normalize(pooling(trunk(seen)), dim=1).pow(power)
    return F.normalize((total / len(scales)).pow(1 / power), dim=1)
