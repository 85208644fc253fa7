"""Scatter plots of embeddings."""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Image


def two_dimensions(embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the coordinates of two-dimensional embeddings, or the first two principal components.

    Args:
        embeddings: Embeddings ``[N, D]``, D at least 1.

    Returns:
        Coordinates ``[N, 2]``, float64.

    Example:
        >>> two_dimensions(np.eye(3)).shape
        (3, 2)
    """
    wide = np.pad(np.asarray(embeddings, np.float64), ((0, 0), (0, 1)))
    if embeddings.shape[1] <= 2:
        return wide[:, :2]
    centred = wide - wide.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ directions.T[:, :2]
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))


def scatter(
    embeddings: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    side: int = 800,
) -> Image:
    """Draw embeddings as dots coloured by class, with the name of a class at its median.

    Args:
        embeddings: Embeddings ``[N, D]``; of more than two dimensions, the first two principal
            components are drawn.
        labels: Indices into `classes`, ``[N]``.
        classes: Names of the classes.
        side: Height and width of the picture, in pixels.

    Returns:
        Picture ``[side, side, 3]``.

    Example:
        >>> scatter(np.eye(2), np.array([0, 1]), ("a", "b"), side=64).shape
        (64, 64, 3)
    """
    picture = np.full((side, side, 3), 255, np.uint8)
    if not len(labels):
        return picture
    flat = two_dimensions(embeddings)
    low, high = flat.min(0), flat.max(0)
    scale = (
        0.88 * side / max(float((high - low).max()), 1e-12)
    )  # the same for both axes, which preserves angles
    middle = (low + high) / 2
    places = np.rint((flat - middle) * scale * (1, -1) + side / 2).astype(int)
    colours = [
        tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i / len(classes), 0.75, 0.8))
        for i in range(len(classes))
    ]
    radius = max(1, side // 250)
    for place, number in zip(places.tolist(), labels.tolist(), strict=True):
        cv2.circle(picture, place, radius, colours[number], -1, cv2.LINE_AA)
    for number in np.unique(labels).tolist():
        x, y = np.median(places[labels == number], axis=0).astype(int).tolist()
        # Black, outlined in white: in the colour of its class a name is unreadable among dots.
        for width, colour in ((7, (255, 255, 255)), (2, (0, 0, 0))):
            font = cv2.FONT_HERSHEY_SIMPLEX
            name = classes[number][:24]
            cv2.putText(picture, name, (x, y), font, side / 800, colour, width, cv2.LINE_AA)
    return picture
