"""Scans of a room made of boxes and a ball."""

import numpy as np
from scipy.spatial.transform import Rotation

SCALE = 0.6


def balls(seed, count=12):
    """Return points on balls within 1.5 m, a scene unlike the room, ``[N, 3]``."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 400, 3))
    points *= rng.uniform(0.1, 0.3, (count, 1, 1)) / np.linalg.norm(points, axis=2, keepdims=True)
    return (points + rng.uniform(0, 1.5, (count, 1, 3))).reshape(-1, 3)


def room(seed=0, density=200):
    """Return points on the walls and furniture of a room of 2.4 x 1.8 x 1.5 m, ``[N, 3]``.

    It widens to one end, because a box has a rotational symmetry.
    """
    rng = np.random.default_rng(seed)
    boxes = [((0, 0, 0), (4, 3, 2.5))]
    for _ in range(7):
        size = rng.uniform(0.3, 1.0, 3)
        low = rng.uniform([0, 0, 0], [3, 2, 0.4])
        boxes.append((tuple(low), tuple(low + size)))
    parts = [_box(rng, np.array(low), np.array(high), density) for low, high in boxes]
    ball = rng.normal(size=(int(density * 4 * np.pi * 0.16), 3))
    parts.append([2, 1.5, 1] + 0.4 * ball / np.linalg.norm(ball, axis=1, keepdims=True))
    points = np.concatenate(parts)
    points[:, 1:] *= 1 + points[:, :1] * rng.uniform(0.05, 0.12, 2)
    return SCALE * points


def _box(rng, low, high, density):
    faces = []
    for axis in range(3):
        for side in (low, high):
            extent = high - low
            area = np.prod(np.delete(extent, axis))
            points = low + rng.uniform(size=(int(density * area), 3)) * extent
            points[:, axis] = side[axis]
            faces.append(points)
    return np.concatenate(faces)


def motion(seed, shift=2.0):
    """Return a random rigid motion, ``[4, 4]``."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    matrix[:3, 3] = shift * np.random.default_rng(seed).normal(size=3)
    return matrix


def part(points, low, high, seed=0, noise=0.003):
    """Return the points of a room between two x of 0 to 4, noisy and subsampled, ``[M, 3]``."""
    rng = np.random.default_rng(seed)
    x = points[:, 0] / SCALE
    inside = points[(x >= low) & (x <= high)]
    kept = inside[rng.permutation(len(inside))[: int(0.8 * len(inside))]]
    return kept + noise * rng.normal(size=kept.shape)


def errors(motion, truth):
    """Return the rotation error in degrees, and the largest error in metres within a room."""
    residual = motion[:3, :3].T @ truth[:3, :3]
    angle = np.degrees(np.arccos(np.clip((np.trace(residual) - 1) / 2, -1, 1)))
    corners = np.array([[x, y, z, 1] for x in (0, 4) for y in (0, 3) for z in (0, 2.5)])
    return angle, np.linalg.norm(corners @ (motion - truth)[:3].T, axis=1).max()


def symmetric_room(seed, density=400):
    """Return points of a box of 5 x 4 x 2.5 m with six boxes, which `seed` places, ``[N, 3]``."""
    rng, sizes = np.random.default_rng(0), np.random.default_rng(seed)
    parts = [_box(rng, np.zeros(3), np.array([5, 4, 2.5]), density)]
    for _ in range(6):
        size, low = sizes.uniform(0.3, 1.2, 3), sizes.uniform(0.3, 3, 3) * [1, 1, 0]
        parts.append(_box(rng, low, low + size, 4 * density))
    return np.concatenate(parts)


def table(turn, seed, thing=True):
    """Return points of a round table of 1 m, turned by degrees, with two boxes, ``[N, 3]``."""
    rng = np.random.default_rng(seed)
    angle, radius = rng.uniform(0, 2 * np.pi, 40000), 0.5 * np.sqrt(rng.uniform(0, 1, 40000))
    parts = [np.stack([radius * np.cos(angle), radius * np.sin(angle), 0 * angle], 1)]
    if thing:
        parts.append(_box(rng, np.array([0.02, -0.03, 0]), np.array([0.14, 0.04, 0.05]), 100_000))
        parts.append(_box(rng, np.array([-0.05, 0.01, 0]), np.array([-0.02, 0.06, 0.14]), 100_000))
    points = np.concatenate(parts) @ Rotation.from_euler("z", turn, degrees=True).as_matrix().T
    return points + 0.001 * rng.normal(size=points.shape)
