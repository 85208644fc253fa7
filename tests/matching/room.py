"""Views of a corner of a room with textured walls, by cameras that move."""

import cv2
import numpy as np

SIZE = (320, 240)
CAMERA = (300.0, 300.0, 155.0, 122.0)  # the principal point is not in the middle
# Each wall is a plane normal . x = offset, with two directions along it.
_WALLS = [
    ((0, 0, 1), 4.5, (1, 0, 0), (0, 1, 0)),
    ((1, 0, 0), -1.6, (0, 0, 1), (0, 1, 0)),
    ((0, 1, 0), 1.2, (1, 0, 0), (0, 0, 1)),
]
_TEXELS = 64  # for a unit of length
_TARGET = np.array([-0.2, 0.2, 4.0])


def texture(seed):
    """Return noise of all scales, [1024, 1024, 3] uint8."""
    rng = np.random.default_rng(seed)
    result = np.zeros((1024, 1024, 3), np.float32)
    for side in (16, 64, 256, 512):
        noise = rng.normal(size=(side, side, 3)).astype(np.float32)
        result += cv2.resize(noise, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 40 * result, 0, 255).astype(np.uint8)


def pose(centre):
    """Return the rotation from world to camera of a camera that looks at the corner."""
    forward = _TARGET - centre
    forward /= np.linalg.norm(forward)
    right = np.cross([0, 1, 0], forward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


CENTRES = [np.array([x, 0.1 * np.sin(3 * x), 0.15 * x]) for x in (-0.8, -0.4, 0.0, 0.4, 0.8)]
ROTATIONS = [pose(centre) for centre in CENTRES]


def render(centre, rotation):
    """Return the picture of a camera, [240, 320, 3] uint8."""
    W, H = SIZE
    fx, fy, cx, cy = CAMERA
    x, y = np.meshgrid(np.arange(W), np.arange(H))
    rays = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x, float)], axis=-1) @ rotation
    picture, depth = np.zeros((H, W, 3), np.uint8), np.full((H, W), np.inf)
    for seed, (normal, offset, u, v) in enumerate(_WALLS):
        distance = (offset - centre @ normal) / (rays @ normal)
        points = centre + distance[..., None] * rays
        places = [(points @ along * _TEXELS).astype(np.float32) for along in (u, v)]
        drawn = cv2.remap(texture(seed), *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        is_nearest = (distance > 0) & (distance < depth)
        picture[is_nearest], depth[is_nearest] = drawn[is_nearest], distance[is_nearest]
    return picture
