"""Patches around keypoints: exact crops, rotations and scales, equal to those of kornia."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from flowmatch.matching.keypoints import Keypoints
from flowmatch.matching.patches import build_pyramid, extract_patches, sample_patches


def keypoint(x, y, scale, angle=0.0):
    return Keypoints(*(np.array([v], np.float32) for v in ((x, y), scale, angle, 1.0)))


def test_an_upright_patch_is_a_crop(photo):
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    # 32 pixels between pixel edges: from x = 100 to 131, y = 60 to 91.
    patch = extract_patches(photo, keypoint(115.5, 75.5, 16 / 6), 32)[0, 0]
    expected = torch.from_numpy(gray[60:92, 100:132].astype(np.float32) / 255)
    torch.testing.assert_close(patch, expected, rtol=0, atol=1e-3)


def test_a_patch_rotates_with_its_angle(photo):
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    # The x axis of the patch points down the image: the crop is rotated counterclockwise.
    patch = extract_patches(photo, keypoint(115.5, 75.5, 16 / 6, np.pi / 2), 32)[0, 0]
    expected = torch.from_numpy(np.rot90(gray[60:92, 100:132]).astype(np.float32) / 255)
    torch.testing.assert_close(patch, expected, rtol=0, atol=1e-3)


def test_a_large_patch_is_smoothed(photo):
    # One sample per 4 x 4 pixels of noise, which would be noise without the pyramid.
    noise = np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8)
    patch = extract_patches(noise, keypoint(127.5, 127.5, 64 / 6), 32)
    assert patch.std() < 0.3 * extract_patches(noise, keypoint(127.5, 127.5, 16 / 6), 32).std()


def test_magnification_is_a_scale(photo):
    large, small = keypoint(150, 90, 4), keypoint(150, 90, 2)
    assert torch.equal(
        extract_patches(photo, large, 32, magnification=3),
        extract_patches(photo, small, 32, magnification=6),
    )


@pytest.mark.parametrize(
    ("shape", "size", "count"),
    [
        ((61, 83), 15, 3),
        ((61, 83), 32, 1),
        ((200, 300), 15, 4),
        ((200, 300), 32, 3),
        ((33, 34), 15, 2),
        ((7, 9), 15, 1),
        ((7, 9), 1, 3),
    ],
)
def test_equals_kornia(shape, size, count):
    feature = pytest.importorskip("kornia.feature")
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((1, 1, *shape)).astype(np.float32))
    N = 300
    axes = rng.normal(size=(N, 2, 2)) * np.exp(rng.uniform(0, 5, (N, 1, 1)))
    centres = rng.uniform(-20, 20 + max(shape), (N, 2, 1))
    frames = torch.from_numpy(np.concatenate([axes, centres], axis=2).astype(np.float32))
    expected = feature.extract_patches_from_pyramid(image, frames[None], size)[0]
    levels = build_pyramid(image, size)
    assert len(levels) == count
    torch.testing.assert_close(sample_patches(levels, frames, size), expected, rtol=0, atol=2e-4)


def test_a_frame_that_is_not_finite_gives_zeros():
    frames = torch.eye(2, 3).repeat(3, 1, 1)
    frames[1, 0, 0], frames[2, 1, 2] = torch.nan, torch.inf
    patches = sample_patches([torch.ones(1, 1, 20, 20)], frames, 8)
    assert patches.flatten(1).sum(dim=1).tolist() == [64, 0, 0]


def test_matching_is_imported_without_kornia():
    code = "import sys, flowmatch.matching; sys.exit('kornia' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
