"""A picture of an embedding: its items as dots, coloured by class."""

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmatch._opencv import cv2


def two_dimensions(embeddings: Tensor) -> Tensor:
    """Give two coordinates: those there are, or the two principal components of more.

    Args:
        embeddings: ``[N, D]``, D of 1 or more.

    Returns:
        ``[N, 2]`` float64.

    Example:
        >>> two_dimensions(torch.eye(3)).shape
        torch.Size([3, 2])
    """
    wide = torch.nn.functional.pad(embeddings.detach().cpu().double(), (0, 1))
    if embeddings.shape[1] <= 2:
        return wide[:, :2]
    centred = wide - wide.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    flat = centred @ directions.T[:, :2]
    return torch.nn.functional.pad(flat, (0, 2 - flat.shape[1]))


def scatter(
    embeddings: Tensor, labels: Tensor, classes: Sequence[str], side: int = 800
) -> NDArray[np.uint8]:
    """Draw an embedding, each class in a colour, its name where its middle is.

    Args:
        embeddings: ``[N, D]``; of more than two dimensions, the principal components are drawn.
        labels: ``[N]``, into `classes`.
        classes: Names.
        side: Of the picture, in pixels.

    Returns:
        ``[side, side, 3]``, RGB.

    Example:
        >>> scatter(torch.eye(2), torch.tensor([0, 1]), ("a", "b"), side=64).shape
        (64, 64, 3)
    """
    picture = np.full((side, side, 3), 255, np.uint8)
    if not len(labels):
        return picture
    flat = two_dimensions(embeddings).numpy()
    low, high = flat.min(0), flat.max(0)
    scale = 0.88 * side / max(float((high - low).max()), 1e-12)  # one for both: angles stay
    middle = (low + high) / 2
    places = np.rint((flat - middle) * scale * (1, -1) + side / 2).astype(int)
    numbers = labels.cpu().numpy()
    colours = [
        tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i / len(classes), 0.75, 0.8))
        for i in range(len(classes))
    ]
    radius = max(1, side // 250)
    for place, number in zip(places.tolist(), numbers.tolist(), strict=True):
        cv2.circle(picture, place, radius, colours[number], -1, cv2.LINE_AA)
    for number in np.unique(numbers).tolist():
        x, y = np.median(places[numbers == number], axis=0).astype(int).tolist()
        # In black, outlined: in their own colour names would drown among the dots.
        for width, colour in ((7, (255, 255, 255)), (2, (0, 0, 0))):
            font = cv2.FONT_HERSHEY_SIMPLEX
            name = classes[number][:24]
            cv2.putText(picture, name, (x, y), font, side / 800, colour, width, cv2.LINE_AA)
    return picture
