"""Keypoints and the patches around them."""

import cv2
import numpy as np
import pytest
import torch

from flowmatch.matching.describe import describe_keypoints
from flowmatch.matching.keypoints import DETECTORS, Keypoints, detect_keypoints
from flowmatch.matching.networks import TFeat
from flowmatch.matching.patches import extract_patches


def keypoint(x, y, scale, angle=0.0):
    return Keypoints(*(np.array([v], np.float32) for v in ((x, y), scale, angle, 1.0)))


@pytest.mark.parametrize("detector", DETECTORS)
def test_detectors_find_the_best_within_the_image(photo, detector):
    found = detect_keypoints(photo, detector, keypoints=200)
    assert 100 < len(found.xy) <= 200
    assert found.xy.shape == (len(found.xy), 2)
    assert {array.dtype for array in found} == {np.dtype(np.float32)}
    H, W = photo.shape[:2]
    assert ((found.xy >= 0) & (found.xy <= (W - 1, H - 1))).all()
    assert (np.diff(found.score) <= 0).all()
    again = detect_keypoints(photo, detector, keypoints=200)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


def test_more_keypoints_begin_with_the_fewer(photo):
    few, many = (detect_keypoints(photo, "sift", keypoints=n) for n in (50, 400))
    np.testing.assert_array_equal(many.score[:50], few.score)


def test_a_blob_has_its_place_and_scale():
    y, x = np.mgrid[:128, :160]
    blob = np.exp(-((x - 80.0) ** 2 + (y - 50.0) ** 2) / (2 * 6.0**2))
    found = detect_keypoints((255 * blob).astype(np.uint8), "sift", keypoints=5)
    np.testing.assert_allclose(found.xy[0], (80, 50), atol=0.5)
    # A Gaussian blob stands out most where the blur is its own, sqrt(2^(1/3)) above the layer's.
    assert 4.5 < found.scale[0] < 7


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [((64, 96), 6, 6), ((640, 480), 1000, 1000), ((33, 33), 1, 1), ((20, 300), 100, 100)],
)
def test_grid_is_centred_and_bounded(shape, count, expected):
    found = detect_keypoints(np.zeros(shape, np.uint8), "grid", keypoints=count)
    assert 0.6 * expected <= len(found.xy) <= expected
    low, high = found.xy.min(axis=0), found.xy.max(axis=0)
    np.testing.assert_allclose(low + high, (shape[1] - 1, shape[0] - 1), atol=1e-3)


def test_nothing_to_detect():
    flat = np.full((40, 50), 128, np.uint8)
    for detector in ("sift", "orb"):
        found = detect_keypoints(flat, detector)
        assert found.xy.shape == (0, 2)
        assert extract_patches(flat, found, 32).shape == (0, 1, 32, 32)


def test_refusals():
    flat = np.zeros((40, 50), np.uint8)
    with pytest.raises(ValueError, match="detector must be one of sift, orb, grid, got 'surf'"):
        detect_keypoints(flat, "surf")
    with pytest.raises(ValueError, match="keypoints must be positive, got 0"):
        detect_keypoints(flat, keypoints=0)
    with pytest.raises(ValueError, match=r"image must be uint8 .* got float64 \[40, 50\]"):
        detect_keypoints(flat.astype(float))
    with pytest.raises(ValueError, match="size and magnification must be positive, got 0"):
        extract_patches(flat, keypoint(5, 5, 1), 0)


# ---- Descriptors -------------------------------------------------------------------------------


def test_sift_equals_opencv(photo):
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    points, expected = cv2.SIFT.create().detectAndCompute(gray, None)
    rows = [(*p.pt, p.size / 2, np.deg2rad(p.angle), p.response) for p in points]
    x, y, *rest = np.array(rows, np.float32).T
    found = describe_keypoints(photo, Keypoints(np.stack([x, y], 1), *rest), model="sift")
    # Angles went through radians: an entry may round to the next whole number.
    difference = np.abs(found.numpy() - expected)
    assert len(points) > 300
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.01


def test_rootsift_is_the_root_of_shares(photo):
    points = detect_keypoints(photo, keypoints=20)
    sift, root = (
        describe_keypoints(photo, points, model="sift"),
        describe_keypoints(photo, points, model="rootsift"),
    )
    torch.testing.assert_close(root.square(), sift / sift.sum(dim=1, keepdim=True))


def test_orb_describes_keypoints_of_any_detector(photo):
    points = detect_keypoints(photo, "sift", keypoints=300)
    found = describe_keypoints(photo, points, model="orb")
    assert found.dtype == torch.uint8
    assert found.shape == (len(points.xy), 32)
    # Order and number stay, although OpenCV drops some.
    chosen = np.arange(0, len(points.xy), 7)
    assert torch.equal(describe_keypoints(photo, points.select(chosen), model="orb"), found[chosen])
    assert (found.float().sum(dim=1) > 0).float().mean() > 0.7


def test_networks_describe_in_batches(photo):
    network, points = TFeat(), detect_keypoints(photo, keypoints=10)
    found = describe_keypoints(photo, points, model=network, batch=4)
    expected = network(extract_patches(photo, points, 32))
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad
    nothing = points.select(np.zeros(10, bool))
    assert describe_keypoints(photo, nothing, model=network).shape == (0, 128)
    for name in ("sift", "rootsift", "orb"):
        assert len(describe_keypoints(photo, nothing, model=name)) == 0
    with pytest.raises(ValueError, match="one of rootsift, sift, orb, default, .*got 'surf'"):
        describe_keypoints(photo, points, model="surf")


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 2), (11, 40), (12, 12), (20, 33)])
def test_tiny_images(shape):
    noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    network = TFeat()
    for detector in DETECTORS:
        found = detect_keypoints(noise, detector, keypoints=20)
        for name in ("sift", "rootsift", "orb", network):
            assert len(describe_keypoints(noise, found, model=name)) == len(found.xy)


@pytest.mark.parametrize("scale", [0.1, 1.6, 40.0, 5000.0])
def test_keypoints_of_any_scale(photo, scale):
    some = keypoint(100, 100, scale)
    for name in ("sift", "orb", TFeat()):
        assert len(describe_keypoints(photo, some, model=name)) == 1
        assert describe_keypoints(photo, some, model=name).float().isfinite().all()
