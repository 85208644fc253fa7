"""What cameras and weather do to frames: blur, fog, shadow, tone, noise, compression."""

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.flow.scene import Scene, View

Generator = np.random.Generator
Image = NDArray[np.uint8]
Light = NDArray[np.float32]  # [H, W, 3], 0..255

SHUTTER_SAMPLES = 7


def expose_moving(rng: Generator, scene: Scene, first: View, second: View) -> tuple[Light, Light]:
    """Blur both frames along everything's motion, a seventh of the time; else leave them sharp."""
    if rng.random() >= 1 / 7:
        return first.image, second.image
    shutter = rng.uniform(0.15, 0.6)  # share of the time between the frames
    times = np.linspace(-shutter / 2, shutter / 2, SHUTTER_SAMPLES)
    around = np.delete(times, SHUTTER_SAMPLES // 2)  # which is not always exactly 0

    def mean(middle: float, view: View) -> Light:
        others = [scene.view(middle + float(t)).image for t in around]
        return np.asarray((view.image + sum(others)) / SHUTTER_SAMPLES, np.float32)

    return mean(0.0, first), mean(1.0, second)


def degrade(rng: Generator, first: Light, second: Light) -> tuple[Image, Image]:
    """Give both frames one scene's air and one camera's optics, and each a little of its own.

    Args:
        rng: The only source of chance.
        first: Frame as the scene paints it, ``[H, W, 3]``, 0..255.
        second: The later one.

    Returns:
        What a camera stores of them, uint8.
    """
    first, second = _fog(rng, first, second)
    first, second = _shade(rng, first, second)
    first, second = _defocus(rng, first, second)
    one, two = _develop(rng, first, second)
    if rng.random() < 0.15:
        quality = int(rng.integers(30, 95))
        one, two = _compress(one, quality), _compress(two, quality)
    return one, two


def clouds(rng: Generator, height: int, width: int) -> NDArray[np.float32]:
    """Return smooth noise in 0..1, ``[height, width]``, a few blobs across."""
    total = np.zeros((height, width), np.float32)
    for cells, weight in ((3, 1.0), (6, 0.5), (12, 0.25)):
        octave = rng.random((cells, cells), dtype=np.float32)
        total += weight * cv2.resize(octave, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _fog(rng: Generator, first: Light, second: Light) -> tuple[Light, Light]:
    """Lay a veil over both frames that drifts on its own, a tenth of the time."""
    if rng.random() >= 0.1:
        return first, second
    H, W = first.shape[:2]
    drift = int(rng.integers(0, 9))
    veil = clouds(rng, H, W + drift) * rng.uniform(0.2, 0.7)
    colour = np.float32(rng.uniform(120, 255)) + rng.normal(size=3).astype(np.float32) * 8

    def cover(image: Light, veil: NDArray[np.float32]) -> Light:
        return np.asarray(image + veil[..., None] * (colour - image), np.float32)

    return cover(first, veil[:, :W]), cover(second, veil[:, drift:])


def _shade(rng: Generator, first: Light, second: Light) -> tuple[Light, Light]:
    """Change the light from one frame to the next, smoothly, a fifth of the time."""
    if rng.random() >= 0.2:
        return first, second
    H, W = first.shape[:2]
    strength = rng.uniform(0.1, 0.5)
    common = 1 - strength * clouds(rng, H, W)
    change = 1 + 0.4 * strength * (clouds(rng, H, W) - 0.5)
    return first * common[..., None], second * (common * change)[..., None]


def _defocus(rng: Generator, first: Light, second: Light) -> tuple[Light, Light]:
    """Blur both frames, rarely one more than the other."""
    if rng.random() >= 0.3:
        return first, second
    blur = rng.uniform(0.3, 1.5)
    other = blur * (rng.uniform(0.7, 1.4) if rng.random() < 0.2 else 1.0)
    return (
        np.asarray(cv2.GaussianBlur(first, (0, 0), blur), np.float32),
        np.asarray(cv2.GaussianBlur(second, (0, 0), other), np.float32),
    )


def _develop(rng: Generator, first: Light, second: Light) -> tuple[Image, Image]:
    """Apply one camera's tone and noise; each frame's exposure differs a little."""
    gamma, contrast = np.exp(rng.normal(size=2) * 0.2)
    brightness, colour = rng.normal() * 15, np.exp(rng.normal(size=3) * 0.1)
    sigma = np.float32(abs(rng.normal()) * 4)
    unlike = 3.0 if rng.random() < 0.15 else 1.0  # an exposure that adapts

    def develop(image: Light) -> Image:
        own_contrast = contrast * np.exp(rng.normal() * 0.03 * unlike)
        own_brightness = brightness + rng.normal() * 3 * unlike
        # Tone as a table of 256 entries for each channel: a power for each pixel is slow.
        levels = (np.arange(256)[:, None] / 255) ** gamma * 255 * colour
        table = ((levels - 128) * own_contrast + 128 + own_brightness).astype(np.float32)
        toned = cv2.LUT(np.rint(image).clip(0, 255).astype(np.uint8), table[None])
        noise = sigma * rng.standard_normal(image.shape, dtype=np.float32)
        return (toned + noise).clip(0, 255).astype(np.uint8)

    return develop(first), develop(second)


def _compress(image: Image, quality: int) -> Image:
    """Store and read as JPEG; the order of channels does not matter to the eye or to a network."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(
        np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    )
