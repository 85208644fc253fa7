"""Procedural textures and outlines, for scenes with and without photographs."""

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Generator, Image


def noise(rng: Generator, size: int) -> Image:
    """Return coloured 1/f^a noise, ``[size, size, 3]``, with a in 0.5..1.3: clouds to gravel."""
    slope = rng.uniform(0.5, 1.3)
    mix = np.eye(3) * rng.uniform(0.2, 1) + rng.normal(size=(3, 3)) * 0.3
    total = np.zeros((size, size, 3), np.float32)
    cells = 4
    while cells <= size:
        octave = (rng.normal(size=(cells, cells, 3)) @ mix).astype(np.float32)
        total += cv2.resize(octave, (size, size), interpolation=cv2.INTER_CUBIC) * (
            (4 / cells) ** slope
        )
        cells *= 2
    total = (total - total.mean((0, 1))) / (total.std() + 1e-6)
    return _to_image(total * rng.uniform(20, 60) + rng.uniform(50, 200, 3))


def dead_leaves(rng: Generator, size: int) -> Image:
    """Return overlapping discs and polygons over noise; small ones are the most frequent."""
    image = noise(rng, size)
    for _ in range(rng.integers(40, 300)):
        radius = min(8 / (rng.random() ** 0.6 + 0.03), size / 5)
        centre = rng.uniform(0, size, 2)
        colour = tuple(rng.uniform(0, 255, 3).tolist())
        if rng.random() < 0.5:
            axes = (int(radius) + 1, int(radius * rng.uniform(0.3, 1)) + 1)
            at = (int(centre[0]), int(centre[1]))
            cv2.ellipse(image, at, axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
        else:
            points = centre + rng.normal(size=(rng.integers(3, 6), 2)) * radius
            cv2.fillPoly(image, [points.astype(np.int32)], colour, cv2.LINE_AA)
    grain = noise(rng, size).astype(np.float32) - 128
    return _to_image(image + grain * rng.uniform(0, 0.6))


def gradient(rng: Generator, size: int) -> Image:
    """Return a smooth colour gradient, nearly without texture."""
    across = np.linspace(0, 1, size, dtype=np.float32)
    ramp = across[:, None] * rng.uniform(-1, 1) + across[None, :] * rng.uniform(-1, 1)
    start, change = rng.uniform(0, 255, 3), rng.uniform(-120, 120, 3)
    return _to_image(start + ramp[..., None] * change + rng.normal(size=(size, size, 1)) * 2)


def voronoi(rng: Generator, size: int) -> Image:
    """Return Voronoi cells, each of one colour, half of them with dark seams: stones."""
    points = (rng.random((int(rng.integers(20, 400)), 2)) * size).astype(np.int64)
    seeds = np.full((size, size), 255, np.uint8)
    seeds[points[:, 1], points[:, 0]] = 0
    distance, label = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = rng.uniform(0, 255, 3) + rng.normal(size=(int(label.max()) + 1, 3)) * 50
    image = colours[label]
    if rng.random() < 0.5:
        image *= 1 - np.clip(distance / rng.uniform(5, 60), 0, 0.7)[..., None]
    return _to_image(image + (noise(rng, size).astype(np.float32) - 128) * rng.uniform(0, 0.3))


def stripes(rng: Generator, size: int) -> Image:
    """Return stripes or a checkerboard, whose repetitions are easily confused."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(6), np.log(80)))
    across = (x * np.cos(angle) + y * np.sin(angle)) / period
    wave = np.sin(2 * np.pi * across)
    if rng.random() < 0.5:
        along = (y * np.cos(angle) - x * np.sin(angle)) / (period * rng.uniform(0.5, 2))
        wave = wave * np.sin(2 * np.pi * along)
    share = np.clip(wave * rng.uniform(1, 8), -1, 1)[..., None] / 2 + 0.5
    colours = rng.uniform(0, 255, (2, 3))
    return _to_image(
        colours[0] * share + colours[1] * (1 - share) + rng.normal(size=(size, size, 1))
    )


def writing(rng: Generator, size: int) -> Image:
    """Return lines of random letters on one colour."""
    image = np.full((size, size, 3), rng.uniform(0, 255, 3), np.uint8)
    scale = float(rng.uniform(0.4, 2))
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789  .,"))
    for y in range(int(25 * scale), size, int(32 * scale)):
        line = "".join(rng.choice(letters, 120))
        colour = tuple(rng.uniform(0, 255, 3).tolist())
        thick = int(rng.integers(1, 4))
        cv2.putText(
            image, line, (4, y), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thick, cv2.LINE_AA
        )
    return image


def plain(rng: Generator, size: int) -> Image:
    """Return one colour with a little noise: a wall, or the sky."""
    grain = rng.normal(size=(size, size, 1)) * rng.uniform(0, 2)
    return _to_image(rng.uniform(0, 255, 3) + grain)


# Each kind of texture and its share.
TEXTURES = {
    dead_leaves: 0.45,
    noise: 0.2,
    voronoi: 0.1,
    stripes: 0.05,
    writing: 0.05,
    gradient: 0.1,
    plain: 0.05,
}


def sample_texture(rng: Generator, size: int) -> Image:
    """Return a random procedural texture, ``[size, size, 3]``."""
    make = list(TEXTURES)[int(rng.choice(len(TEXTURES), p=list(TEXTURES.values())))]
    return make(rng, size)


def sample_outline(rng: Generator, size: int) -> Image:
    """Return the opacity ``[size, size]`` of a random polygon, blob, bar, ring or fence."""
    if rng.random() < 0.08:
        return sample_fence(rng, size)
    alpha = np.zeros((size, size), np.uint8)
    half = size / 2
    if rng.random() < 0.5:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
        radii = rng.uniform(0.4, 1, len(angles)) * half
    else:
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        waves = [
            rng.normal() * 0.1 * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in range(1, 6)
        ]
        radii = half * np.clip(0.65 + np.sum(waves, axis=0), 0.1, 1)
    # A fifth are thin, like branches and limbs, where flow often fails.
    squeeze = rng.uniform(0.05, 0.15) if rng.random() < 0.2 else rng.uniform(0.5, 1)
    points = np.stack([half + radii * np.cos(angles), half + squeeze * radii * np.sin(angles)], 1)
    cv2.fillPoly(alpha, [points.astype(np.int32)], 255, cv2.LINE_AA)
    if rng.random() < 0.15:  # a hole
        middle = points.mean(axis=0)
        inner = middle + (points - middle) * rng.uniform(0.3, 0.7)
        cv2.fillPoly(alpha, [inner.astype(np.int32)], 0, cv2.LINE_AA)
    return alpha


def sample_fence(rng: Generator, size: int) -> Image:
    """Return a grid of thin bars, through which the background is visible everywhere."""
    alpha = np.zeros((size, size), np.uint8)
    gap, thick = int(rng.integers(size // 12, size // 4)), int(rng.integers(2, max(3, size // 40)))
    crossed = rng.random() < 0.5
    for k in range(thick):
        alpha[:, k::gap] = 255
        if crossed:
            alpha[k::gap] = 255
    return alpha


def _to_image(values: NDArray[np.float32] | NDArray[np.float64]) -> Image:
    return np.clip(values, 0, 255).astype(np.uint8)
