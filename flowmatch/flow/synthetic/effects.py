"""What cameras and weather do to frames: blur, fog, shadow, tone, noise, compression.

What happens is drawn first, as numbers (`draw_effects`), and done to the frames afterwards: here by
NumPy and OpenCV (`expose_moving`, `degrade`), for whole batches by torch in `develop`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.flow.synthetic.scene import Scene, View

Generator = np.random.Generator
Image = NDArray[np.uint8]
Light = NDArray[np.float32]  # [H, W, 3], 0..255
Octaves = tuple[NDArray[np.float32], ...]  # random squares, the next ones finer: see `clouds`

SHUTTER_SAMPLES = 7
OCTAVES = ((3, 1.0), (6, 0.5), (12, 0.25))  # cells and weight of each


@dataclass(frozen=True)
class Fog:
    """A veil over both frames, that drifts on its own.

    Attributes:
        octaves: Its clouds.
        strength: Opacity where they are thickest.
        colour: RGB, about 0..255.
        drift: Pixels to the left, from the first frame to the second.
    """

    octaves: Octaves
    strength: float
    colour: NDArray[np.float32]
    drift: int


@dataclass(frozen=True)
class Shade:
    """Light that changes smoothly across the frames, and a little from one to the next.

    Attributes:
        strength: Light lost in the darkest place.
        common: Clouds over both frames.
        change: Clouds over the second.
    """

    strength: float
    common: Octaves
    change: Octaves


@dataclass(frozen=True)
class Exposure:
    """One frame's own tone and noise.

    Attributes:
        contrast: About the middle gray.
        brightness: Added to all channels.
        grain: Standard normal noise ``[H, W, 3]``, or the seed of a generator that makes it.
    """

    contrast: float
    brightness: float
    grain: NDArray[np.float32] | int


@dataclass(frozen=True)
class Film:
    """One camera's tone and noise.

    Attributes:
        gamma: Exponent of the tone.
        colour: Factor of each channel.
        sigma: Standard deviation of the noise.
        exposures: Of the first frame and of the second.
    """

    gamma: float
    colour: NDArray[np.float64]
    sigma: np.float32
    exposures: tuple[Exposure, Exposure]

    def table(self, frame: int) -> NDArray[np.float32]:
        """Return what becomes of the levels 0..255 in the first frame or the second, [256, 3]."""
        own = self.exposures[frame]
        levels = (np.arange(256)[:, None] / 255) ** self.gamma * 255 * self.colour
        return ((levels - 128) * own.contrast + 128 + own.brightness).astype(np.float32)


@dataclass(frozen=True)
class Effects:
    """All that happens to a pair of frames; None is what does not.

    Attributes:
        shutter: Share of the time between the frames for which it is open.
        fog: The air.
        shade: The light.
        defocus: Standard deviation of the blur of the first frame and of the second, pixels.
        film: Tone and noise.
        quality: Of a JPEG file.
    """

    shutter: float | None
    fog: Fog | None
    shade: Shade | None
    defocus: tuple[float, float] | None
    film: Film
    quality: int | None


def draw_effects(rng: Generator, size: tuple[int, int], seeded: bool = False) -> Effects:
    """Draw one scene's air, one camera's optics, and for each frame a little of its own.

    Args:
        rng: The only source of chance.
        size: Height and width of the frames.
        seeded: Leave the noise to another generator: draw a seed for each frame.
    """
    return Effects(
        shutter=rng.uniform(0.15, 0.6) if rng.random() < 1 / 7 else None,
        fog=_draw_fog(rng) if rng.random() < 0.1 else None,
        shade=_draw_shade(rng) if rng.random() < 0.2 else None,
        defocus=_draw_defocus(rng) if rng.random() < 0.3 else None,
        film=_draw_film(rng, size, seeded),
        quality=int(rng.integers(30, 95)) if rng.random() < 0.15 else None,
    )


def shutter_times(shutter: float) -> NDArray[np.float64]:
    """Return when a frame is seen beside its own time, for as long as the shutter is open."""
    times = np.linspace(-shutter / 2, shutter / 2, SHUTTER_SAMPLES)
    return np.delete(times, SHUTTER_SAMPLES // 2)  # which is not always exactly 0


def expose_moving(
    scene: Scene, shutter: float | None, first: View, second: View
) -> tuple[Light, Light]:
    """Blur both frames along everything's motion, if there is a shutter; else leave them sharp."""
    if shutter is None:
        return first.image, second.image
    around = shutter_times(shutter)

    def mean(middle: float, view: View) -> Light:
        others = [scene.view(middle + float(t)).image for t in around]
        return np.asarray((view.image + sum(others)) / SHUTTER_SAMPLES, np.float32)

    return mean(0.0, first), mean(1.0, second)


def degrade(effects: Effects, first: Light, second: Light) -> tuple[Image, Image]:
    """Do to both frames what was drawn for them; their motion blur is `expose_moving`.

    Args:
        effects: What was drawn for frames of this size.
        first: Frame as the scene paints it, ``[H, W, 3]``, 0..255.
        second: The later one.

    Returns:
        What a camera stores of them, uint8.
    """
    if effects.fog:
        first, second = _cover(effects.fog, first, second)
    if effects.shade:
        first, second = _light(effects.shade, first, second)
    if effects.defocus:
        blur, other = effects.defocus
        first = np.asarray(cv2.GaussianBlur(first, (0, 0), blur), np.float32)
        second = np.asarray(cv2.GaussianBlur(second, (0, 0), other), np.float32)
    one, two = (_develop(effects.film, frame, light) for frame, light in enumerate((first, second)))
    if effects.quality:
        one, two = _compress(one, effects.quality), _compress(two, effects.quality)
    return one, two


def draw_clouds(rng: Generator) -> Octaves:
    """Draw what `clouds` are made of."""
    return tuple(rng.random((cells, cells), dtype=np.float32) for cells, _ in OCTAVES)


def clouds(octaves: Octaves, height: int, width: int) -> NDArray[np.float32]:
    """Return smooth noise in 0..1, ``[height, width]``, a few blobs across."""
    total = np.zeros((height, width), np.float32)
    for octave, (_, weight) in zip(octaves, OCTAVES, strict=True):
        total += weight * cv2.resize(octave, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _draw_fog(rng: Generator) -> Fog:
    drift = int(rng.integers(0, 9))
    octaves, strength = draw_clouds(rng), rng.uniform(0.2, 0.7)
    colour = np.float32(rng.uniform(120, 255)) + rng.normal(size=3).astype(np.float32) * 8
    return Fog(octaves, strength, colour, drift)


def _draw_shade(rng: Generator) -> Shade:
    return Shade(rng.uniform(0.1, 0.5), draw_clouds(rng), draw_clouds(rng))


def _draw_defocus(rng: Generator) -> tuple[float, float]:
    blur = rng.uniform(0.3, 1.5)
    return blur, blur * (rng.uniform(0.7, 1.4) if rng.random() < 0.2 else 1.0)  # rarely unlike


def _draw_film(rng: Generator, size: tuple[int, int], seeded: bool) -> Film:
    gamma, contrast = np.exp(rng.normal(size=2) * 0.2)
    brightness, colour = rng.normal() * 15, np.exp(rng.normal(size=3) * 0.1)
    sigma = np.float32(abs(rng.normal()) * 4)
    unlike = 3.0 if rng.random() < 0.15 else 1.0  # an exposure that adapts

    def expose() -> Exposure:
        own_contrast = contrast * np.exp(rng.normal() * 0.03 * unlike)
        own_brightness = brightness + rng.normal() * 3 * unlike
        if seeded:
            return Exposure(own_contrast, own_brightness, int(rng.integers(2**63)))
        grain = rng.standard_normal((*size, 3), dtype=np.float32)
        return Exposure(own_contrast, own_brightness, grain)

    return Film(gamma, colour, sigma, (expose(), expose()))


def _cover(fog: Fog, first: Light, second: Light) -> tuple[Light, Light]:
    H, W = first.shape[:2]
    veil = clouds(fog.octaves, H, W + fog.drift) * fog.strength

    def cover(image: Light, veil: NDArray[np.float32]) -> Light:
        return np.asarray(image + veil[..., None] * (fog.colour - image), np.float32)

    return cover(first, veil[:, :W]), cover(second, veil[:, fog.drift :])


def _light(shade: Shade, first: Light, second: Light) -> tuple[Light, Light]:
    H, W = first.shape[:2]
    common = 1 - shade.strength * clouds(shade.common, H, W)
    change = 1 + 0.4 * shade.strength * (clouds(shade.change, H, W) - 0.5)
    return first * common[..., None], second * (common * change)[..., None]


def _develop(film: Film, frame: int, image: Light) -> Image:
    # Tone as a table of 256 entries for each channel: a power for each pixel is slow.
    table = film.table(frame)
    toned = cv2.LUT(np.rint(image).clip(0, 255).astype(np.uint8), table[None])
    grain = film.exposures[frame].grain
    if isinstance(grain, int):
        grain = np.random.default_rng(grain).standard_normal(image.shape, dtype=np.float32)
    return (toned + film.sigma * grain).clip(0, 255).astype(np.uint8)


def _compress(image: Image, quality: int) -> Image:
    """Store and read as JPEG; the order of channels does not matter to the eye or to a network."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(
        np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    )
