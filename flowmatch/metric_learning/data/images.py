"""Pictures with classes: parts of them, and squares that networks take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmatch._opencv import cv2
from flowmatch.io import read_image


@dataclass(frozen=True)
class LabelledImages:
    """Pictures and their classes.

    Attributes:
        pictures: Files, or the pictures themselves, ``[N, H, W]`` or ``[N, H, W, 3]`` uint8.
        labels: ``[N]`` int64, into `classes`.
        classes: Names.
        train_classes: How many of the first classes are for training where the dataset says so; the
            others are for the test. None leaves it to the user.
    """

    pictures: Sequence[Path] | NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    train_classes: int | None = None

    def __post_init__(self) -> None:
        if len(self.pictures) != len(self.labels):
            raise ValueError(
                f"there must be as many labels as pictures, got {len(self.labels)} "
                f"for {len(self.pictures)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """1 for arrays of gray, else 3."""
        return 1 if isinstance(self.pictures, np.ndarray) and self.pictures.ndim == 3 else 3

    def natural_size(self, trunk: str) -> int:
        """Give the size of squares that suits: that of arrays, else what the trunk is made for.

        Args:
            trunk: Name in `flowmatch.metric_learning.networks.TRUNKS`.

        Returns:
            Pixels.
        """
        if isinstance(self.pictures, np.ndarray):
            return int(min(self.pictures.shape[1:3]))
        return 64 if trunk == "small" else 224

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Give one picture.

        Args:
            index: Which.

        Returns:
            ``[H, W, C]``, RGB or gray.

        Raises:
            ValueError: Its file is no picture.
        """
        if isinstance(self.pictures, np.ndarray):
            found: NDArray[np.uint8] = self.pictures[index]
            return found if found.ndim == 3 else found[..., None]
        return read_image(self.pictures[index])

    def of_classes(self, chosen: Sequence[int]) -> "LabelledImages":
        """Give the part of some classes, which are numbered anew from 0.

        Args:
            chosen: Classes, in their new order.

        Returns:
            A part; pictures stay where they are.
        """
        new = np.full(len(self.classes), -1)
        new[list(chosen)] = np.arange(len(chosen))
        names = tuple(self.classes[i] for i in chosen)
        part = self._take(np.flatnonzero(new[self.labels] >= 0))
        return LabelledImages(part.pictures, new[part.labels], names)

    def _take(self, kept: NDArray[np.int64]) -> "LabelledImages":
        pictures = (
            self.pictures[kept]
            if isinstance(self.pictures, np.ndarray)
            else [self.pictures[i] for i in kept.tolist()]
        )
        return LabelledImages(pictures, self.labels[kept], self.classes)

    def split_pictures(self, every: int = 2) -> tuple["LabelledImages", "LabelledImages"]:
        """Split by pictures: the test is on other pictures of the same classes.

        Args:
            every: Of each class, in their order, the last of so many is for the test.

        Returns:
            The parts for training and for the test.

        Raises:
            ValueError: `every` is below 2.
        """
        if every < 2:
            raise ValueError(f"every must be at least 2, got {every}")
        order = np.argsort(self.labels, kind="stable")
        first = np.searchsorted(self.labels[order], np.arange(len(self.classes)))
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order)) - first[self.labels[order]]
        tested = place % every == every - 1
        return self._take(np.flatnonzero(~tested)), self._take(np.flatnonzero(tested))

    def split_classes(self, train: int | None = None) -> tuple["LabelledImages", "LabelledImages"]:
        """Split by classes: the test is on classes that were never seen.

        Args:
            train: How many of the first classes are for training; None takes what the dataset
                says, or half of them.

        Returns:
            The parts for training and for the test.

        Raises:
            ValueError: That leaves a part without classes.
        """
        count = train or self.train_classes or math.ceil(len(self.classes) / 2)
        if not 0 < count < len(self.classes):
            raise ValueError(
                f"training and test need classes of {len(self.classes)}, got {count} for training"
            )
        order = range(len(self.classes))
        return self.of_classes(order[:count]), self.of_classes(order[count:])


def as_square(
    picture: NDArray[np.uint8], size: int, generator: torch.Generator | None = None
) -> Tensor:
    """Make a square of a picture: its middle, or for training a random crop or its mirror image.

    A picture that has the size is taken as it is if nothing is to be random.

    Args:
        picture: ``[H, W, C]``.
        size: Of the square; the shorter side is scaled to 8/7 of that before.
        generator: Decides at random; None takes the middle.

    Returns:
        ``[C, size, size]`` uint8.

    Example:
        >>> as_square(np.zeros((30, 50, 3), np.uint8), 14).shape
        torch.Size([3, 14, 14])
    """
    height, width = picture.shape[:2]
    if generator is None and (height, width) == (size, size):
        return torch.from_numpy(picture.transpose(2, 0, 1).copy())
    scale = math.ceil(size * 8 / 7) / min(height, width)
    shape = (max(size, round(width * scale)), max(size, round(height * scale)))
    smaller = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(picture, shape, interpolation=smaller).reshape(shape[1], shape[0], -1)
    free = [side - size for side in scaled.shape[:2]]
    if generator is None:
        y, x, mirrored = free[0] // 2, free[1] // 2, False
    else:
        y, x = (int(torch.randint(side + 1, (), generator=generator)) for side in free)
        mirrored = bool(torch.rand((), generator=generator) < 0.5)
    part = scaled[y : y + size, x : x + size]
    part = part[:, ::-1] if mirrored else part
    return torch.from_numpy(np.ascontiguousarray(part.transpose(2, 0, 1)))
