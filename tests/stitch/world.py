"""A rendered world: photos of known cameras from one equirectangular picture."""

import cv2
import numpy as np

from .conftest import turn


def blobs(height, width, count, seed=0):
    """Return a picture full of corners of all sizes, [height, width, 3]."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 128, np.uint8)
    for _ in range(count):
        x, y = (int(v) for v in rng.integers(0, (width, height)))
        side = int(rng.integers(4, 40))
        colour = tuple(int(c) for c in rng.integers(0, 255, 3))
        if rng.random() < 0.5:
            w, h = (int(v) for v in rng.integers(3, side, 2)) if side > 4 else (3, 3)
            cv2.rectangle(picture, (x, y), (x + w, y + h), colour, -1)
        else:
            cv2.circle(picture, (x, y), side // 2, colour, -1)
    return picture


class World:
    """An equirectangular picture whose photos are rendered; it is round, so ±180° join."""

    def __init__(self, height=1024, count=9000, seed=0):
        self.picture = blobs(height, 2 * height, count, seed)

    def photo(self, rotation, view, size=(300, 200)):
        """Return a photo.

        rotation: From the axes of the camera to those of the world, as `turn` returns it.
        view: Horizontal field of view in degrees.
        size: Width and height.
        """
        width, height = size
        focal = width / 2 / np.tan(np.radians(view) / 2)
        x = (np.arange(width) - (width - 1) / 2) / focal
        y = (np.arange(height) - (height - 1) / 2) / focal
        rays = np.stack([*np.meshgrid(x, y), np.ones((height, width))], -1) @ rotation.T
        rays = self.directions(rays)
        longitude = np.arctan2(rays[..., 0], rays[..., 2])
        latitude = np.arctan2(rays[..., 1], np.hypot(rays[..., 0], rays[..., 2]))
        rows = self.picture.shape[0]
        u = (longitude / np.pi + 1) * rows - 0.5
        v = (latitude / np.pi + 0.5) * rows - 0.5
        return cv2.remap(
            self.picture,
            u.astype(np.float32),
            v.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )

    def directions(self, rays):
        """Return in which directions from the middle rays of a photo meet the world."""
        return rays

    def photos(self, rotations, view, size=(300, 200)):
        return [self.photo(rotation, view, size) for rotation in rotations]


# Yaw, pitch and roll of the photos of a set, degrees.
SETS = {
    "three high": [(0, pitch, 0) for pitch in (-22, 0, 22)],
    "two wide, three high": [(yaw, pitch, 0) for pitch in (-22, 0, 22) for yaw in (-14, 14)],
    "three wide, two high": [(yaw, pitch, 0) for pitch in (-12, 12) for yaw in (-28, 0, 28)],
    "row": [(yaw, 0, 0) for yaw in (-30, 0, 30)],
    "row, camera up": [(yaw, 30, 0) for yaw in (-60, -30, 0, 30, 60)],
    "row, a photo turned": [(-30, 0, 0), (0, 0, 90), (30, 0, 0), (60, 0, 0)],
    "row, two of six turned": [
        (-60, 0, 0), (-30, 0, 90), (0, 0, 0), (30, 0, 0), (60, 0, -90), (90, 0, 0)
    ],
    "row, one upside down": [(yaw, 0, 180 * (yaw == 30)) for yaw in (-60, -30, 0, 30, 60)],
    "circle": [(yaw, 0, 0) for yaw in range(0, 360, 30)],
    "circle at -10": [(yaw, -10, 0) for yaw in range(0, 360, 30)],
    "circle at -20": [(yaw, -20, 0) for yaw in range(0, 360, 30)],
    "circle at -60": [(yaw, -60, 0) for yaw in range(0, 360, 30)],
    "circle at 45": [(yaw, 45, 0) for yaw in range(0, 360, 30)],
    "circle, some turned": [(yaw, -10, 90 * (yaw % 90 == 0)) for yaw in range(0, 360, 30)],
    "two circles": [(yaw, pitch, 0) for pitch in (-18, 18) for yaw in range(0, 360, 36)],
    "three circles": [(yaw, pitch, 0) for pitch in (-35, 0, 35) for yaw in range(0, 360, 30)],
    "circles at 0 and 45": [(yaw, pitch, 0) for pitch in (0, 45) for yaw in range(0, 360, 30)],
    "rows at -30, 0, 30, 60": [
        (yaw, pitch, 0) for pitch in (-30, 0, 30, 60) for yaw in range(-60, 61, 30)
    ],
    "circle, zenith and nadir": [
        *((yaw, 0, 0) for yaw in range(0, 360, 30)), (0, 90, 0), (70, -90, 0)
    ],
}  # fmt: skip


def rotations(name, jitter=0.0, seed=0):
    """Return the rotations of a set, with errors of `jitter` degrees in yaw, pitch and roll."""
    rng = np.random.default_rng(seed)
    return [turn(*(np.array(angles) + rng.normal(0, jitter, 3))) for angles in SETS[name]]


def tilt(estimated, true):
    """Return by how many degrees the world's vertical is tilted, given two lists of rotations."""
    u, _, v = np.linalg.svd(sum(a @ b.T for a, b in zip(estimated, true, strict=True)))
    world_to_panorama = u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v
    return np.degrees(np.arccos(np.clip(world_to_panorama[1, 1], -1, 1)))
