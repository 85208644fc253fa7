"""Strong changes of what a picture looks like, none of where things are."""

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2

Generator = np.random.Generator
Image = NDArray[np.uint8]


def restyle(rng: Generator, image: Image) -> Image:
    """Show a picture as another camera, season, hour or hand would.

    Tone curves that may fall as well as rise (so that gradients turn round), negatives, exchanged
    colours, drawings of edges, light from one side, blur, noise and compression, each by chance.

    Args:
        rng: The only source of chance.
        image: RGB ``[H, W, 3]``.

    Returns:
        The same size; every thing is where it was.

    Example:
        >>> image = np.full((8, 8, 3), 100, np.uint8)
        >>> restyle(np.random.default_rng(0), image).shape
        (8, 8, 3)
    """
    if rng.random() < 0.3:
        image = _recolour(rng, image)
    if rng.random() < 0.15:
        image = _draw(image)
    elif rng.random() < 0.6:
        image = _curve(rng, image)
    if rng.random() < 0.3:
        image = np.asarray(255 - image, np.uint8)
    if rng.random() < 0.5:
        image = _light(rng, image)
    if rng.random() < 0.5:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6)), np.uint8)
    if rng.random() < 0.6:
        noise = rng.uniform(2, 18) * rng.standard_normal(image.shape, dtype=np.float32)
        image = (image + noise).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        image = _compress(image, int(rng.integers(15, 70)))
    return image


def _recolour(rng: Generator, image: Image) -> Image:
    """Exchange the channels, or leave a gray picture, tinted."""
    if rng.random() < 0.5:
        return np.ascontiguousarray(image[..., rng.permutation(3)])
    gray = image @ np.array([0.299, 0.587, 0.114])
    return np.asarray(gray[..., None] * rng.uniform(0.6, 1.0, 3)).astype(np.uint8)


def _draw(image: Image) -> Image:
    """Leave dark lines on white where the brightness changes."""
    gray = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.0)
    gradients = [cv2.Sobel(gray, cv2.CV_32F, *order) for order in ((1, 0), (0, 1))]
    strength = np.hypot(*gradients)
    lines = 255 - 255 * (strength / max(float(np.percentile(strength, 97)), 1.0)).clip(0, 1)
    return np.repeat(lines.astype(np.uint8)[..., None], 3, axis=2)


def _curve(rng: Generator, image: Image) -> Image:
    """Map each channel's levels by a smooth curve; a third of the curves go up and down."""
    knots = np.linspace(0, 255, 5)
    table = np.empty((256, 3))
    rising = rng.random() < 0.67
    common = rng.uniform(0, 255, 5)
    for channel in range(3):
        values = 0.6 * common + 0.4 * rng.uniform(0, 255, 5)
        values = np.sort(values) if rising else values
        # Some contrast must be left, or there is nothing to match.
        low, high = values.min(), values.max()
        values = (values - low) / max(high - low, 1.0) * rng.uniform(150, 255)
        table[:, channel] = np.interp(np.arange(256), knots, values)
    return np.asarray(cv2.LUT(image, table.astype(np.uint8)[None]), np.uint8)


def _light(rng: Generator, image: Image) -> Image:
    """Light the picture from one side, in a colour, with another exposure."""
    H, W = image.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.linspace(-1, 1, H)[:, None], np.linspace(-1, 1, W)[None]
    slope = 1 + rng.uniform(0, 0.5) * (np.cos(angle) * x + np.sin(angle) * y)
    colour = np.exp(rng.normal(size=3) * 0.2) * np.exp(rng.normal() * 0.2)
    return np.asarray(image * slope[..., None] * colour).clip(0, 255).astype(np.uint8)


def _compress(image: Image, quality: int) -> Image:
    """Store and read as JPEG; the order of the channels does not matter to what is lost."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
