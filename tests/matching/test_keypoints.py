"""Keypoints and the patches around them."""

import cv2
import numpy as np
import pytest
import torch

from flowmatch.matching.describe import describe
from flowmatch.matching.keypoints import DETECTORS, Keypoints, detect, extract_patches
from flowmatch.matching.networks import TFeat


def keypoint(x, y, scale, angle=0.0):
    return Keypoints(*(np.array([v], np.float32) for v in ((x, y), scale, angle, 1.0)))


@pytest.mark.parametrize("detector", DETECTORS)
def test_detectors_find_the_best_within_the_image(photo, detector):
    found = detect(photo, detector, keypoints=200)
    assert 100 < len(found.xy) <= 200
    assert found.xy.shape == (len(found.xy), 2)
    assert {array.dtype for array in found} == {np.dtype(np.float32)}
    H, W = photo.shape[:2]
    assert ((found.xy >= 0) & (found.xy <= (W - 1, H - 1))).all()
    assert (np.diff(found.score) <= 0).all()
    again = detect(photo, detector, keypoints=200)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


def test_more_keypoints_begin_with_the_fewer(photo):
    few, many = (detect(photo, "sift", keypoints=n) for n in (50, 400))
    np.testing.assert_array_equal(many.score[:50], few.score)


def test_a_blob_has_its_place_and_scale():
    y, x = np.mgrid[:128, :160]
    blob = np.exp(-((x - 80.0) ** 2 + (y - 50.0) ** 2) / (2 * 6.0**2))
    found = detect((255 * blob).astype(np.uint8), "sift", keypoints=5)
    np.testing.assert_allclose(found.xy[0], (80, 50), atol=0.5)
    # A Gaussian blob stands out most where the blur is its own, sqrt(2^(1/3)) above the layer's.
    assert 4.5 < found.scale[0] < 7


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [((64, 96), 6, 6), ((640, 480), 1000, 1000), ((33, 33), 1, 1), ((20, 300), 100, 100)],
)
def test_grid_is_centred_and_bounded(shape, count, expected):
    found = detect(np.zeros(shape, np.uint8), "grid", keypoints=count)
    assert 0.6 * expected <= len(found.xy) <= expected
    low, high = found.xy.min(axis=0), found.xy.max(axis=0)
    np.testing.assert_allclose(low + high, (shape[1] - 1, shape[0] - 1), atol=1e-3)


def test_nothing_to_detect():
    flat = np.full((40, 50), 128, np.uint8)
    for detector in ("sift", "orb"):
        found = detect(flat, detector)
        assert found.xy.shape == (0, 2)
        assert extract_patches(flat, found, 32).shape == (0, 1, 32, 32)


def test_refusals():
    flat = np.zeros((40, 50), np.uint8)
    with pytest.raises(ValueError, match="detector must be one of sift, orb, grid, got 'surf'"):
        detect(flat, "surf")
    with pytest.raises(ValueError, match="keypoints must be positive, got 0"):
        detect(flat, keypoints=0)
    with pytest.raises(ValueError, match=r"image must be uint8 .* got float64 \[40, 50\]"):
        detect(flat.astype(float))
    with pytest.raises(ValueError, match="size and magnification must be positive, got 0"):
        extract_patches(flat, keypoint(5, 5, 1), 0)


# ---- Patches -----------------------------------------------------------------------------------


def test_an_upright_patch_is_a_crop(photo):
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    # 32 pixels between pixel edges: from x = 100 to 131, y = 60 to 91.
    patch = extract_patches(photo, keypoint(115.5, 75.5, 16 / 6), 32)[0, 0]
    expected = torch.from_numpy(gray[60:92, 100:132].astype(np.float32) / 255)
    torch.testing.assert_close(patch, expected, rtol=0, atol=1e-3)


def test_a_patch_turns_with_its_angle(photo):
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    # Its x axis points down the image, so the patch is the crop turned counterclockwise.
    patch = extract_patches(photo, keypoint(115.5, 75.5, 16 / 6, np.pi / 2), 32)[0, 0]
    expected = torch.from_numpy(np.rot90(gray[60:92, 100:132]).astype(np.float32) / 255)
    torch.testing.assert_close(patch, expected, rtol=0, atol=1e-3)


def test_a_large_patch_is_smoothed(photo):
    # One pixel in 4 x 4 of noise: without the pyramid the patch would be noise as well.
    noise = np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8)
    patch = extract_patches(noise, keypoint(127.5, 127.5, 64 / 6), 32)
    assert patch.std() < 0.3 * extract_patches(noise, keypoint(127.5, 127.5, 16 / 6), 32).std()


def test_magnification_is_a_scale(photo):
    some, other = keypoint(150, 90, 4), keypoint(150, 90, 2)
    assert torch.equal(
        extract_patches(photo, some, 32, magnification=3),
        extract_patches(photo, other, 32, magnification=6),
    )


# ---- Descriptors -------------------------------------------------------------------------------


def test_sift_equals_opencv(photo):
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    points, expected = cv2.SIFT.create().detectAndCompute(gray, None)
    rows = [(*p.pt, p.size / 2, np.deg2rad(p.angle), p.response) for p in points]
    x, y, *rest = np.array(rows, np.float32).T
    found = describe("sift", photo, Keypoints(np.stack([x, y], 1), *rest))
    # Angles went through radians: an entry may round to the next whole number.
    difference = np.abs(found.numpy() - expected)
    assert len(points) > 300
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.01


def test_rootsift_is_the_root_of_shares(photo):
    points = detect(photo, keypoints=20)
    sift, root = describe("sift", photo, points), describe("rootsift", photo, points)
    torch.testing.assert_close(root.square(), sift / sift.sum(dim=1, keepdim=True))


def test_orb_describes_keypoints_of_any_detector(photo):
    points = detect(photo, "sift", keypoints=300)
    found = describe("orb", photo, points)
    assert found.dtype == torch.uint8
    assert found.shape == (len(points.xy), 32)
    # Order and number stay, although OpenCV drops some.
    chosen = np.arange(0, len(points.xy), 7)
    assert torch.equal(describe("orb", photo, points.select(chosen)), found[chosen])
    assert (found.float().sum(dim=1) > 0).float().mean() > 0.7


def test_networks_describe_in_batches(photo):
    network, points = TFeat(), detect(photo, keypoints=10)
    found = describe(network, photo, points, batch=4)
    expected = network(extract_patches(photo, points, 32))
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad
    nothing = points.select(np.zeros(10, bool))
    assert describe(network, photo, nothing).shape == (0, 128)
    for name in ("sift", "rootsift", "orb"):
        assert len(describe(name, photo, nothing)) == 0
    with pytest.raises(ValueError, match="one of default, .*rootsift, sift, orb, got 'surf'"):
        describe("surf", photo, points)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 2), (11, 40), (12, 12), (20, 33)])
def test_tiny_images(shape):
    noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    network = TFeat()
    for detector in DETECTORS:
        found = detect(noise, detector, keypoints=20)
        for name in ("sift", "rootsift", "orb", network):
            assert len(describe(name, noise, found)) == len(found.xy)


@pytest.mark.parametrize("scale", [0.1, 1.6, 40.0, 5000.0])
def test_keypoints_of_any_scale(photo, scale):
    some = keypoint(100, 100, scale)
    for name in ("sift", "orb", TFeat()):
        assert len(describe(name, photo, some)) == 1
        assert describe(name, photo, some).float().isfinite().all()
