"""A ball over a plane, with depth cameras around it."""

import numpy as np

SIZE = (90, 120)
CAMERA = np.array([[110, 0, 59.5], [0, 110, 44.5], [0, 0, 1.0]])
BALL, RADIUS = np.array([0.1, -0.05, 0.3]), 0.25  # above the plane z = 0


def look_at(eye, aim=(0, 0, 0.15)):
    forward = np.subtract(aim, eye) / np.linalg.norm(np.subtract(aim, eye))
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def depth_of(pose):
    """Return the depth image of the ball and the plane, computed analytically."""
    v, u = np.indices(SIZE)
    rays = np.stack([u, v, np.ones(SIZE)], -1) @ np.linalg.inv(CAMERA).T @ pose[:3, :3].T
    eye = pose[:3, 3]
    plane = np.where(rays[..., 2] < 0, -eye[2] / rays[..., 2], np.inf)
    a, b = (rays**2).sum(-1), rays @ (eye - BALL)
    root = b**2 - a * (((eye - BALL) ** 2).sum() - RADIUS**2)
    ball = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    depth = np.minimum(plane, ball)
    return np.where(depth < 2, depth, np.nan)


def surface_of(pose):
    """Return the point that each pixel shows, ``[H, W, 3]``, and the normal there."""
    v, u = np.indices(SIZE)
    rays = np.stack([u, v, np.ones(SIZE)], -1) @ np.linalg.inv(CAMERA).T
    points = (rays * depth_of(pose)[..., None]) @ pose[:3, :3].T + pose[:3, 3]
    return points, surface_error(points.reshape(-1, 3))[1].reshape(points.shape)


POSES = [look_at(1.2 * np.array([np.cos(a), np.sin(a), 0.8])) for a in np.arange(8) * np.pi / 4]


def surface_error(points):
    """Return signed distances to the nearer of ball and plane, metres, and the normals there."""
    offset = points - BALL
    distance = np.linalg.norm(offset, axis=1)
    ball = np.abs(distance - RADIUS) < np.abs(points[:, 2])
    normals = np.where(ball[:, None], offset / distance[:, None], [0, 0, 1])
    return np.where(ball, distance - RADIUS, points[:, 2]), normals
