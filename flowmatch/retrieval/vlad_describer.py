"""Global descriptors by VLAD: local descriptors of keypoints, aggregated by visual words."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from flowmatch.imaging import Image, check_image, resize_within
from flowmatch.matching import describe_keypoints, detect_keypoints
from flowmatch.matching.describe import device_of
from flowmatch.matching.networks import DescriptorNetwork
from flowmatch.retrieval.vocabulary import kmeans, vlad

CLASSICAL = ("rootsift", "sift")
_ABOUT = r"vlad (.+) words=(\d{1,9}) keypoints=(\d{1,9}) side=(\d{1,9}) seed=(-?\d{1,18})"
_MAX_POINTS = 100_000  # local descriptors from which a vocabulary is learned


@dataclass(frozen=True)
class VladOptions:
    """Options of `VladDescriber`.

    Attributes:
        words: Number of visual words in the vocabulary.
        keypoints: Maximum number of keypoints per image.
        side: Longer side, pixels, to which images are reduced.
        seed: Random seed of the vocabulary.

    Raises:
        ValueError: A number is not positive.

    Example:
        >>> VladOptions(words=16).side
        640
    """

    words: int = 64
    keypoints: int = 1000
    side: int = 640
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.words, self.keypoints, self.side) < 1:
            raise ValueError(
                "words, keypoints and side must be positive, "
                f"got {self.words}, {self.keypoints}, {self.side}"
            )


_DEFAULTS = VladOptions()


class VladDescriber:
    """Describe images by VLAD over keypoints; no network has to be trained for it.

    Args:
        descriptor: ``"rootsift"``, ``"sift"``, or a descriptor network of `flowmatch.matching`.
        options: Vocabulary, keypoints and image size.
        name: Name of the network in `about`; None takes its class.

    Raises:
        ValueError: `descriptor` is another name.

    Example:
        >>> import numpy as np
        >>> textures = np.random.default_rng(0).integers(0, 255, (3, 12, 12), np.uint8)
        >>> images = [t.repeat(8, axis=0).repeat(8, axis=1) for t in textures]
        >>> describer = VladDescriber(options=VladOptions(words=4))
        >>> describer.fit(images)
        >>> describer(images[0]).shape
        torch.Size([512])

    Reference:
        See `vlad`.
    """

    def __init__(
        self,
        descriptor: DescriptorNetwork | str = "rootsift",
        options: VladOptions = _DEFAULTS,
        *,
        name: str | None = None,
    ) -> None:
        if isinstance(descriptor, str) and descriptor not in CLASSICAL:
            raise ValueError(f"descriptor must be rootsift, sift or a network, got {descriptor!r}")
        self.descriptor, self.options = descriptor, options
        kind = descriptor if isinstance(descriptor, str) else name or type(descriptor).__name__
        self.about = (
            f"vlad {kind} words={options.words} keypoints={options.keypoints} "
            f"side={options.side} seed={options.seed}"
        )
        self.vocabulary: Tensor | None = None

    def local(self, image: ArrayLike) -> Tensor:
        """Describe the keypoints of an image, ``[N, D]``."""
        small = resize_within(check_image(image), self.options.side)
        keypoints = detect_keypoints(small, "sift", keypoints=self.options.keypoints)
        return describe_keypoints(small, keypoints, model=self.descriptor)

    def fit(self, images: Iterable[Image]) -> None:
        """Learn the vocabulary from images.

        Raises:
            ValueError: The images have fewer keypoints than the vocabulary has words.
        """
        self.vocabulary = learn_vocabulary([self.local(image) for image in images], self.options)

    def state(self) -> dict[str, Tensor]:
        """Return the vocabulary."""
        return {} if self.vocabulary is None else {"vocabulary": self.vocabulary.cpu()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore a vocabulary that `state` returned.

        Raises:
            ValueError: It is missing, or it has another shape.
        """
        vocabulary = state.get("vocabulary")
        shape = (
            self.options.words,
            128 if isinstance(self.descriptor, str) else self.descriptor.dim,
        )
        if vocabulary is None or vocabulary.shape != shape or not vocabulary.isfinite().all():
            actual = None if vocabulary is None else list(vocabulary.shape)
            raise ValueError(f"expected a finite vocabulary {list(shape)}, got {actual}")
        self.vocabulary = vocabulary.float().to(device_of(self.descriptor))

    def __call__(self, image: ArrayLike) -> Tensor:
        """Describe a uint8 image by ``[words * D]``.

        Raises:
            RuntimeError: There is no vocabulary yet.
        """
        if self.vocabulary is None:
            raise RuntimeError("there is no vocabulary yet: call fit or restore first")
        return vlad(self.local(image), self.vocabulary).cpu()


def parse_about(about: str) -> tuple[str, VladOptions]:
    """Parse `VladDescriber.about`.

    Returns:
        Name of the local descriptor, and the options.

    Raises:
        ValueError: The text describes something else.

    Example:
        >>> parse_about(VladDescriber().about)[0]
        'rootsift'
    """
    match = re.fullmatch(_ABOUT, about)
    if match is None:
        raise ValueError(f"expected an index made by VLAD, got {about!r}")
    words, keypoints, side, seed = map(int, match.groups()[1:])
    return match[1], VladOptions(words=words, keypoints=keypoints, side=side, seed=seed)


def learn_vocabulary(descriptors: Sequence[Tensor], options: VladOptions = _DEFAULTS) -> Tensor:
    """Learn visual words from local descriptors.

    Args:
        descriptors: ``[N, D]`` of each image.
        options: Number of words and random seed.

    Returns:
        ``[words, D]``.

    Raises:
        ValueError: There are fewer descriptors than words.
    """
    points = torch.cat(list(descriptors)) if descriptors else torch.empty(0, 1)
    if len(points) < options.words:
        raise ValueError(
            f"{options.words} words need as many keypoints, got {len(points)} in "
            f"{len(descriptors)} images"
        )
    if len(points) > _MAX_POINTS:
        generator = torch.Generator().manual_seed(options.seed)
        sample = torch.randperm(len(points), generator=generator)[:_MAX_POINTS]
        points = points[sample.to(points.device)]
    return kmeans(points, options.words, seed=options.seed)
