"""Photos of cameras that are known: they turn in front of a picture that is far away."""

import cv2
import numpy as np
import pytest

FOCAL, SIZE = 500.0, (320, 240)  # of the photos
FAR = 1000.0  # from the camera to the picture, in pixels of it


@pytest.fixture(scope="session")
def scene():
    """The picture, [800, 1200, 3]."""
    from skimage import data

    return cv2.resize(data.coffee(), (1200, 800), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="session")
def other_scene():
    from skimage import data

    return cv2.resize(data.astronaut(), (1024, 1024), interpolation=cv2.INTER_CUBIC)


def turn(yaw, pitch=0.0, roll=0.0):
    """Return a rotation from the camera's axes to the world's, of angles in degrees."""
    rotations = [(0, yaw, 0), (pitch, 0, 0), (0, 0, roll)]
    parts = [cv2.Rodrigues(np.radians(r))[0] for r in rotations]
    return parts[0] @ parts[1] @ parts[2]


def intrinsics(focal, size):
    W, H = size
    return np.array([[focal, 0, (W - 1) / 2], [0, focal, (H - 1) / 2], [0, 0, 1]])


def take(picture, R, gain=1.0):
    """Photograph a picture."""
    there = intrinsics(FAR, picture.shape[1::-1])
    matrix = there @ R @ np.linalg.inv(intrinsics(FOCAL, SIZE))
    photo = cv2.warpPerspective(picture, matrix, SIZE, flags=cv2.INTER_AREA | cv2.WARP_INVERSE_MAP)
    return np.clip(photo * gain, 0, 255).astype(np.uint8)


ANGLES = [(-12.0, 2.0, 1.0), (0.0, 0.0, 0.0), (12.0, -2.0, -1.0)]


@pytest.fixture(scope="session")
def photos(scene):
    """Three photos from left to right."""
    return [take(scene, turn(*angles)) for angles in ANGLES]


@pytest.fixture(scope="session")
def other_photos(other_scene):
    """Two photos of something else."""
    return [take(other_scene, turn(yaw, -4)) for yaw in (-5.0, 5.0)]
