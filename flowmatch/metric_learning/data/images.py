"""Labelled images, their splits, and square crops of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmatch._opencv import cv2
from flowmatch.imaging import Image, resize
from flowmatch.io import read_image


@dataclass(frozen=True)
class LabelledImages:
    """Pictures and their classes.

    Attributes:
        pictures: Files, or pixels ``[N, H, W]`` or ``[N, H, W, 3]`` uint8.
        labels: Index of each picture's class in `classes`, ``[N]`` int64.
        classes: Names of the classes.
        train_classes: Number of leading classes for training, the others being for testing, in
            datasets with an official split of classes; otherwise None.
        train_pictures: Whether each picture is for training, ``[N]`` bool, in datasets with an
            official split of pictures; otherwise None.

    Raises:
        ValueError: Numbers of pictures, labels and marks of the split differ, or a label is no
            index of a class.
    """

    pictures: Sequence[Path] | Image
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    train_classes: int | None = None
    train_pictures: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if (
            not isinstance(self.labels, np.ndarray)
            or labels.ndim != 1
            or labels.dtype.kind not in "iu"
        ):
            raise ValueError(
                "labels must be an array [N] of int64, got "
                f"{type(self.labels).__name__} of {labels.dtype} {labels.shape}"
            )
        if len(self.pictures) != len(labels):
            raise ValueError(
                f"there must be as many labels as pictures, got {len(labels)} "
                f"for {len(self.pictures)}"
            )
        if self.train_pictures is not None and self.train_pictures.shape != labels.shape:
            raise ValueError(
                f"train_pictures must be [{len(labels)}], got {self.train_pictures.shape}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise ValueError(
                f"labels must be in 0..{len(self.classes) - 1}, one for each class, got "
                f"{labels.min()}..{labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """Number of channels: 1 for gray arrays, else 3."""
        return 1 if isinstance(self.pictures, np.ndarray) and self.pictures.ndim == 3 else 3

    def natural_size(self, backbone: str) -> int:
        """Return a suitable side of square crops in pixels.

        It is the side of arrays, and for files the input size that is usual for the backbone.

        Args:
            backbone: Name in `flowmatch.metric_learning.networks.BACKBONES`.
        """
        if isinstance(self.pictures, np.ndarray):
            return int(min(self.pictures.shape[1:3]))
        return 64 if backbone in ("small", "tiny") else 224

    def picture(self, index: int) -> Image:
        """Return one picture.

        Args:
            index: Index of the picture.

        Returns:
            ``[H, W, C]``, RGB or gray.

        Raises:
            ValueError: The file is not an image.
        """
        if isinstance(self.pictures, np.ndarray):
            picture: Image = self.pictures[index]
            return picture if picture.ndim == 3 else picture[..., None]
        return read_image(self.pictures[index])

    def select_classes(self, chosen: Sequence[int]) -> "LabelledImages":
        """Return the subset of some classes, renumbered from 0.

        Args:
            chosen: Indices of the classes, in their new order.

        Returns:
            The subset; files are not read.
        """
        new = np.full(len(self.classes), -1)
        new[list(chosen)] = np.arange(len(chosen))
        names = tuple(self.classes[i] for i in chosen)
        subset = self._select(np.flatnonzero(new[self.labels] >= 0))
        return replace(subset, labels=new[subset.labels], classes=names, train_classes=None)

    def _select(self, kept: NDArray[np.int64]) -> "LabelledImages":
        pictures = (
            self.pictures[kept]
            if isinstance(self.pictures, np.ndarray)
            else [self.pictures[i] for i in kept.tolist()]
        )
        official = None if self.train_pictures is None else self.train_pictures[kept]
        return replace(self, pictures=pictures, labels=self.labels[kept], train_pictures=official)

    def split_pictures(self, every: int | None = None) -> tuple["LabelledImages", "LabelledImages"]:
        """Split by pictures: the test set has other pictures of the same classes.

        Args:
            every: Interval of test pictures: of each class, every so many-th picture is one; None
                takes the official split of the dataset, or every second picture.

        Returns:
            The training and the test set.

        Raises:
            ValueError: `every` is below 2.
        """
        if every is None and self.train_pictures is not None:
            parts = (np.flatnonzero(part) for part in (self.train_pictures, ~self.train_pictures))
            train, test = (self._select(part) for part in parts)
            return train, test
        every = 2 if every is None else every
        if every < 2:
            raise ValueError(f"every must be at least 2, got {every}")
        order = np.argsort(self.labels, kind="stable")
        first = np.searchsorted(self.labels[order], np.arange(len(self.classes)))
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order)) - first[self.labels[order]]
        in_test = place % every == every - 1
        return self._select(np.flatnonzero(~in_test)), self._select(np.flatnonzero(in_test))

    def split_classes(self, train: int | None = None) -> tuple["LabelledImages", "LabelledImages"]:
        """Split by classes: the test set has other classes than the training set.

        Args:
            train: Number of leading classes for training; None takes the official split of the
                dataset, or half of the classes.

        Returns:
            The training and the test set.

        Raises:
            ValueError: One of the sets would have no classes.
        """
        count = train or self.train_classes or math.ceil(len(self.classes) / 2)
        if not 0 < count < len(self.classes):
            raise ValueError(
                f"training and test need classes of {len(self.classes)}, got {count} for training"
            )
        order = range(len(self.classes))
        return self.select_classes(order[:count]), self.select_classes(order[count:])


def square_crop(picture: Image, size: int, generator: torch.Generator | None = None) -> Tensor:
    """Crop a square from a picture: its centre, or a random crop that may be mirrored.

    The shorter side is first scaled to 8/7 of the square's; without randomness, a picture of the
    exact size is returned unchanged.

    Args:
        picture: ``[H, W, C]``.
        size: Side of the square in pixels.
        generator: Source of randomness; None crops the centre.

    Returns:
        ``[C, size, size]`` uint8.

    Example:
        >>> square_crop(np.zeros((30, 50, 3), np.uint8), 14).shape
        torch.Size([3, 14, 14])
    """
    height, width = picture.shape[:2]
    if generator is None and (height, width) == (size, size):
        return torch.from_numpy(picture.transpose(2, 0, 1).copy())
    scale = math.ceil(size * 8 / 7) / min(height, width)
    shape = (max(size, round(width * scale)), max(size, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = resize(picture, shape, interpolation).reshape(shape[1], shape[0], -1)
    margins = [side - size for side in scaled.shape[:2]]
    if generator is None:
        y, x, mirrored = margins[0] // 2, margins[1] // 2, False
    else:
        y, x = (int(torch.randint(margin + 1, (), generator=generator)) for margin in margins)
        mirrored = bool(torch.rand((), generator=generator) < 0.5)
    crop = scaled[y : y + size, x : x + size]
    crop = crop[:, ::-1] if mirrored else crop
    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))
