"""Numbers of two handwritten digits: a dataset of 100 classes from scikit-learn's digits."""

import math

import numpy as np

from flowmatch._opencv import cv2
from flowmatch.imaging import Generator, Image
from flowmatch.metric_learning.data.datasets import digits
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.losses._base import at_least


def render_numbers(views: int = 24, size: int = 16, seed: int = 0) -> LabelledImages:
    """Render the numbers 00 to 99 from handwritten digits; each number is a class.

    The two digits of a view are random pictures of their class, each rotated by up to 20 degrees,
    stretched by up to 15 % and shifted, on a noisy ground. Ten digits alone are too few classes to
    train on some and to test on others. The same call gives the same pictures.

    Args:
        views: Number of views of each number.
        size: Side of the square pictures in pixels.
        seed: Random seed of the views.

    Returns:
        Gray pictures ``[100 * views, size, size]``. The order of the numbers is random, so that
        each half of the classes has every digit.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: `views` is below 1, or `size` below 8.

    Example:
        >>> render_numbers(views=2).pictures.shape
        (200, 16, 16)
    """
    at_least(1, views=views)
    at_least(8, size=size)
    source = digits()
    writings = [np.asarray(source.pictures)[source.labels == digit] for digit in range(10)]
    rng = np.random.default_rng(seed)
    names = tuple(f"{number:02d}" for number in rng.permutation(100))
    pictures = np.empty((len(names) * views, size, size), np.uint8)
    for place in range(len(pictures)):
        pair = [writings[int(digit)] for digit in names[place // views]]
        pictures[place] = _render(rng, [kind[int(rng.integers(len(kind)))] for kind in pair], size)
    return LabelledImages(pictures, np.repeat(np.arange(len(names)), views), names)


def _render(rng: Generator, pair: list[Image], size: int) -> Image:
    ink = np.zeros((size, size), np.float32)
    for place, picture in enumerate(pair):
        angle = math.radians(rng.uniform(-20, 20))
        rotation = np.array(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        scale = rng.uniform(0.7, 1.05) * size / 14
        stretch = math.exp(rng.uniform(-0.15, 0.15))
        linear = rotation @ np.diag([scale * stretch, scale / stretch])
        offset = rng.uniform([-0.05, -0.2], [0.05, 0.2])
        centre = size * (np.array([0.27 + 0.46 * place, 0.5]) + offset)
        affine = np.column_stack([linear, centre - linear @ np.array([3.5, 3.5])])
        warped = cv2.warpAffine(picture.astype(np.float32) / 255, affine, (size, size))
        ink = np.maximum(ink, warped)
    noise = np.asarray(cv2.GaussianBlur(rng.normal(0, 1, ink.shape), (0, 0), 1.2), np.float64)
    values = 0.2 + 0.7 * ink * rng.uniform(0.6, 1) + 0.08 * noise / noise.std()
    return np.asarray(np.clip(255 * values, 0, 255).round(), np.uint8)
