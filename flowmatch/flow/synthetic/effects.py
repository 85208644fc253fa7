"""Photometric effects of air and camera: blur, fog, shadow, tone, noise, compression.

Effects are sampled first, as numbers (`sample_effects`), and applied to the frames afterwards: here
by NumPy and OpenCV (`blur_motion`, `apply_effects`), for whole batches by torch in `effects_torch`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.flow.synthetic.scene import Rendering, Scene
from flowmatch.imaging import Generator, Image

Frame = NDArray[np.float32]
"""A frame before it is stored, ``[H, W, 3]``, 0..255."""
Octaves = tuple[NDArray[np.float32], ...]
"""Squares of random values, each finer than the one before; `sum_octaves` makes noise of them."""

SHUTTER_SAMPLES = 7
"""Number of renderings that motion blur averages."""
OCTAVES = ((3, 1.0), (6, 0.5), (12, 0.25))
"""Cells to a side and weight of each octave."""


@dataclass(frozen=True)
class Fog:
    """Fog over both frames, with a motion of its own.

    Attributes:
        octaves: Noise of its density.
        strength: Opacity where it is thickest.
        colour: RGB, about 0..255.
        drift: Motion to the left from the first frame to the second, in pixels.
    """

    octaves: Octaves
    strength: float
    colour: NDArray[np.float32]
    drift: int


@dataclass(frozen=True)
class Shade:
    """Shadows that change smoothly across the frames, and a little from one frame to the next.

    Attributes:
        strength: Share of the light that the darkest place loses.
        common: Noise of the shadows of both frames.
        change: Noise of the change in the second frame.
    """

    strength: float
    common: Octaves
    change: Octaves


@dataclass(frozen=True)
class Exposure:
    """Tone and noise of one frame.

    Attributes:
        contrast: Factor on the difference to middle gray.
        brightness: Value added to all channels.
        grain: Standard normal noise ``[H, W, 3]``, or the seed of a generator that makes it.
    """

    contrast: float
    brightness: float
    grain: NDArray[np.float32] | int


@dataclass(frozen=True)
class Film:
    """Tone and noise of one camera.

    Attributes:
        gamma: Exponent of the tone curve.
        colour: Factor of each channel.
        sigma: Standard deviation of the noise.
        exposures: Exposures of the first and of the second frame.
    """

    gamma: float
    colour: NDArray[np.float64]
    sigma: np.float32
    exposures: tuple[Exposure, Exposure]

    def table(self, frame: int) -> NDArray[np.float32]:
        """Return the tone curve of the first or second frame: a value for each level, [256, 3]."""
        exposure = self.exposures[frame]
        levels = (np.arange(256)[:, None] / 255) ** self.gamma * 255 * self.colour
        toned = (levels - 128) * exposure.contrast + 128 + exposure.brightness
        return toned.astype(np.float32)


@dataclass(frozen=True)
class Effects:
    """Effects on a pair of frames; None leaves an effect out.

    Attributes:
        shutter: Exposure time, as a share of the time between the frames.
        fog: Fog.
        shade: Shadows.
        defocus: Standard deviations of the blur of the first and of the second frame, pixels.
        film: Tone and noise.
        quality: Quality of the JPEG compression.
    """

    shutter: float | None
    fog: Fog | None
    shade: Shade | None
    defocus: tuple[float, float] | None
    film: Film
    quality: int | None


def sample_effects(rng: Generator, size: tuple[int, int], seeded: bool = False) -> Effects:
    """Sample the effects of one scene and one camera, and the small differences of the frames.

    Args:
        rng: Source of all random numbers.
        size: Height and width of the frames.
        seeded: Sample a seed for the noise of each frame instead of the noise.
    """
    return Effects(
        shutter=rng.uniform(0.15, 0.6) if rng.random() < 1 / 7 else None,
        fog=_sample_fog(rng) if rng.random() < 0.1 else None,
        shade=_sample_shade(rng) if rng.random() < 0.2 else None,
        defocus=_sample_defocus(rng) if rng.random() < 0.3 else None,
        film=_sample_film(rng, size, seeded),
        quality=int(rng.integers(30, 95)) if rng.random() < 0.15 else None,
    )


# ---- Random parameters -------------------------------------------------------------------------


def sample_octaves(rng: Generator) -> Octaves:
    """Sample the octaves of `sum_octaves`."""
    return tuple(rng.random((cells, cells), dtype=np.float32) for cells, _ in OCTAVES)


def _sample_fog(rng: Generator) -> Fog:
    drift = int(rng.integers(0, 9))
    octaves, strength = sample_octaves(rng), rng.uniform(0.2, 0.7)
    colour = np.float32(rng.uniform(120, 255)) + rng.normal(size=3).astype(np.float32) * 8
    return Fog(octaves, strength, colour, drift)


def _sample_shade(rng: Generator) -> Shade:
    return Shade(rng.uniform(0.1, 0.5), sample_octaves(rng), sample_octaves(rng))


def _sample_defocus(rng: Generator) -> tuple[float, float]:
    blur = rng.uniform(0.3, 1.5)
    # The two frames rarely differ.
    return blur, blur * (rng.uniform(0.7, 1.4) if rng.random() < 0.2 else 1.0)


def _sample_film(rng: Generator, size: tuple[int, int], seeded: bool) -> Film:
    gamma, contrast = np.exp(rng.normal(size=2) * 0.2)
    brightness, colour = rng.normal() * 15, np.exp(rng.normal(size=3) * 0.1)
    sigma = np.float32(abs(rng.normal()) * 4)
    difference = 3.0 if rng.random() < 0.15 else 1.0  # an exposure that adapts

    def sample_exposure() -> Exposure:
        own_contrast = contrast * np.exp(rng.normal() * 0.03 * difference)
        own_brightness = brightness + rng.normal() * 3 * difference
        if seeded:
            return Exposure(own_contrast, own_brightness, int(rng.integers(2**63)))
        grain = rng.standard_normal((*size, 3), dtype=np.float32)
        return Exposure(own_contrast, own_brightness, grain)

    return Film(gamma, colour, sigma, (sample_exposure(), sample_exposure()))


# ---- Their effect on frames --------------------------------------------------------------------


def shutter_times(shutter: float) -> NDArray[np.float64]:
    """Return the times of the renderings that motion blur adds, relative to the frame's time."""
    times = np.linspace(-shutter / 2, shutter / 2, SHUTTER_SAMPLES)
    return np.delete(times, SHUTTER_SAMPLES // 2)  # the middle, which is not always exactly 0


def blur_motion(
    scene: Scene, shutter: float | None, first: Rendering, second: Rendering
) -> tuple[Frame, Frame]:
    """Blur two frames along the motion of everything in them; no `shutter` leaves them sharp."""
    if shutter is None:
        return first.image, second.image
    offsets = shutter_times(shutter)

    def mean(time: float, rendering: Rendering) -> Frame:
        others = [scene.render(time + float(offset)).image for offset in offsets]
        return np.asarray((rendering.image + sum(others)) / SHUTTER_SAMPLES, np.float32)

    return mean(0.0, first), mean(1.0, second)


def apply_effects(effects: Effects, first: Frame, second: Frame) -> tuple[Image, Image]:
    """Apply all effects but the motion blur to a pair of frames.

    Args:
        effects: Effects sampled for frames of this size.
        first: Frame as rendered, ``[H, W, 3]``, 0..255.
        second: The later frame.

    Returns:
        The frames as a camera stores them, uint8.
    """
    if effects.fog:
        first, second = _apply_fog(effects.fog, first, second)
    if effects.shade:
        first, second = _apply_shade(effects.shade, first, second)
    if effects.defocus:
        blur, second_blur = effects.defocus
        first = np.asarray(cv2.GaussianBlur(first, (0, 0), blur), np.float32)
        second = np.asarray(cv2.GaussianBlur(second, (0, 0), second_blur), np.float32)
    a, b = (_apply_film(effects.film, index, frame) for index, frame in enumerate((first, second)))
    if effects.quality:
        a, b = compress_jpeg(a, effects.quality), compress_jpeg(b, effects.quality)
    return a, b


def sum_octaves(octaves: Octaves, height: int, width: int) -> NDArray[np.float32]:
    """Return smooth noise in 0..1, ``[height, width]``, a few blobs across."""
    total = np.zeros((height, width), np.float32)
    for octave, (_, weight) in zip(octaves, OCTAVES, strict=True):
        total += weight * cv2.resize(octave, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _apply_fog(fog: Fog, first: Frame, second: Frame) -> tuple[Frame, Frame]:
    H, W = first.shape[:2]
    opacity = sum_octaves(fog.octaves, H, W + fog.drift) * fog.strength

    def cover(image: Frame, opacity: NDArray[np.float32]) -> Frame:
        return np.asarray(image + opacity[..., None] * (fog.colour - image), np.float32)

    return cover(first, opacity[:, :W]), cover(second, opacity[:, fog.drift :])


def _apply_shade(shade: Shade, first: Frame, second: Frame) -> tuple[Frame, Frame]:
    H, W = first.shape[:2]
    common = 1 - shade.strength * sum_octaves(shade.common, H, W)
    change = 1 + 0.4 * shade.strength * (sum_octaves(shade.change, H, W) - 0.5)
    return first * common[..., None], second * (common * change)[..., None]


def _apply_film(film: Film, index: int, frame: Frame) -> Image:
    # The tone curve is a table of 256 entries for each channel: a power for each pixel is slow.
    table = film.table(index)
    toned = cv2.LUT(np.rint(frame).clip(0, 255).astype(np.uint8), table[None])
    grain = film.exposures[index].grain
    if isinstance(grain, int):
        grain = np.random.default_rng(grain).standard_normal(frame.shape, dtype=np.float32)
    return (toned + film.sigma * grain).clip(0, 255).astype(np.uint8)


def compress_jpeg(image: Image, quality: int) -> Image:
    """Return an image after JPEG compression, at a quality of 1 to 100."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])
