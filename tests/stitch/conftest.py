"""Photos of known cameras, which rotate in front of a distant picture."""

import cv2
import numpy as np
import pytest

FOCAL, SIZE = 500.0, (320, 240)  # of the photos
DISTANCE = 1000.0  # from the camera to the picture, in pixels of the picture


@pytest.fixture(scope="session")
def scene():
    """A picture, [800, 1200, 3]."""
    from skimage import data

    return cv2.resize(data.coffee(), (1200, 800), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="session")
def other_scene():
    from skimage import data

    return cv2.resize(data.astronaut(), (1024, 1024), interpolation=cv2.INTER_CUBIC)


def turn(yaw, pitch=0.0, roll=0.0):
    """Return the rotation from the axes of the camera to those of the world; angles in degrees."""
    rotations = [(0, yaw, 0), (pitch, 0, 0), (0, 0, roll)]
    parts = [cv2.Rodrigues(np.radians(r))[0] for r in rotations]
    return parts[0] @ parts[1] @ parts[2]


def intrinsics(focal, size):
    W, H = size
    return np.array([[focal, 0, (W - 1) / 2], [0, focal, (H - 1) / 2], [0, 0, 1]])


def take(picture, R, gain=1.0):
    """Return a photo of a picture by a rotated camera."""
    matrix = intrinsics(DISTANCE, picture.shape[1::-1]) @ R @ np.linalg.inv(intrinsics(FOCAL, SIZE))
    photo = cv2.warpPerspective(picture, matrix, SIZE, flags=cv2.INTER_AREA | cv2.WARP_INVERSE_MAP)
    return np.clip(photo * gain, 0, 255).astype(np.uint8)


ANGLES = [(-12.0, 2.0, 1.0), (0.0, 0.0, 0.0), (12.0, -2.0, -1.0)]


@pytest.fixture(scope="session")
def photos(scene):
    """Three photos from left to right."""
    return [take(scene, turn(*angles)) for angles in ANGLES]


@pytest.fixture(scope="session")
def other_photos(other_scene):
    """Two photos of another picture."""
    return [take(other_scene, turn(yaw, -4)) for yaw in (-5.0, 5.0)]
