"""Strong random changes of an image's appearance that leave its geometry unchanged."""

import numpy as np

from flowmatch._opencv import cv2
from flowmatch.imaging import Generator, Image


def restyle(rng: Generator, image: Image) -> Image:
    """Change the appearance of an image at random.

    Each with some probability: tone curves, also decreasing ones, which invert gradients;
    negatives; exchanged colour channels; edge drawings; directional light; blur; noise; JPEG
    compression.

    Args:
        rng: Source of random numbers.
        image: RGB ``[H, W, 3]``.

    Returns:
        An image of the same size and geometry.

    Example:
        >>> image = np.full((8, 8, 3), 100, np.uint8)
        >>> restyle(np.random.default_rng(0), image).shape
        (8, 8, 3)
    """
    if rng.random() < 0.3:
        image = _recolour(rng, image)
    if rng.random() < 0.15:
        image = _edge_drawing(image)
    elif rng.random() < 0.6:
        image = _tone_curve(rng, image)
    if rng.random() < 0.3:
        image = np.asarray(255 - image, np.uint8)
    if rng.random() < 0.5:
        image = _illuminate(rng, image)
    if rng.random() < 0.5:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6)), np.uint8)
    if rng.random() < 0.6:
        noise = rng.uniform(2, 18) * rng.standard_normal(image.shape, dtype=np.float32)
        image = (image + noise).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        image = _compress(image, int(rng.integers(15, 70)))
    return image


def _recolour(rng: Generator, image: Image) -> Image:
    """Exchange the channels, or return a tinted gray image."""
    if rng.random() < 0.5:
        return np.ascontiguousarray(image[..., rng.permutation(3)])
    gray = image @ np.array([0.299, 0.587, 0.114])
    return np.asarray(gray[..., None] * rng.uniform(0.6, 1.0, 3)).astype(np.uint8)


def _edge_drawing(image: Image) -> Image:
    """Return dark edges on white."""
    gray = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.0)
    gradients = [cv2.Sobel(gray, cv2.CV_32F, *order) for order in ((1, 0), (0, 1))]
    strength = np.hypot(*gradients)
    lines = 255 - 255 * (strength / max(float(np.percentile(strength, 97)), 1.0)).clip(0, 1)
    return np.repeat(lines.astype(np.uint8)[..., None], 3, axis=2)


def _tone_curve(rng: Generator, image: Image) -> Image:
    """Map each channel's levels by a smooth curve; a third of the curves are not monotonic."""
    knots = np.linspace(0, 255, 5)
    table = np.empty((256, 3))
    monotonic = rng.random() < 0.67
    common = rng.uniform(0, 255, 5)
    for channel in range(3):
        values = 0.6 * common + 0.4 * rng.uniform(0, 255, 5)
        values = np.sort(values) if monotonic else values
        # A minimum contrast is kept, so that images stay matchable.
        low, high = values.min(), values.max()
        values = (values - low) / max(high - low, 1.0) * rng.uniform(150, 255)
        table[:, channel] = np.interp(np.arange(256), knots, values)
    return np.asarray(cv2.LUT(image, table.astype(np.uint8)[None]), np.uint8)


def _illuminate(rng: Generator, image: Image) -> Image:
    """Apply coloured directional light and another exposure."""
    H, W = image.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.linspace(-1, 1, H)[:, None], np.linspace(-1, 1, W)[None]
    slope = 1 + rng.uniform(0, 0.5) * (np.cos(angle) * x + np.sin(angle) * y)
    colour = np.exp(rng.normal(size=3) * 0.2) * np.exp(rng.normal() * 0.2)
    return np.asarray(image * slope[..., None] * colour).clip(0, 255).astype(np.uint8)


def _compress(image: Image, quality: int) -> Image:
    """Encode and decode as JPEG; the order of the channels does not matter for the artefacts."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
