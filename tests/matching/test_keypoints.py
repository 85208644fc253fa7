"""Keypoint detectors, and the descriptors of keypoints."""

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from flowmatch.matching.describe import describe_keypoints
from flowmatch.matching.keypoints import (
    DETECTORS,
    Keypoints,
    detect_and_describe_sift,
    detect_keypoints,
)
from flowmatch.matching.networks import TFeat
from flowmatch.matching.patches import extract_patches


def keypoint(x, y, scale, angle=0.0):
    return Keypoints(*(np.array([v], np.float32) for v in ((x, y), scale, angle, 1.0)))


@pytest.mark.parametrize("detector", DETECTORS)
def test_detectors_return_the_best_keypoints_inside_the_image(photo, detector):
    result = detect_keypoints(photo, detector, keypoints=200)
    assert 100 < len(result.xy) <= 200
    assert result.xy.shape == (len(result.xy), 2)
    assert {array.dtype for array in result} == {np.dtype(np.float32)}
    H, W = photo.shape[:2]
    assert ((result.xy >= 0) & (result.xy <= (W - 1, H - 1))).all()
    assert (np.diff(result.score) <= 0).all()
    repeated = detect_keypoints(photo, detector, keypoints=200)
    assert all(np.array_equal(a, b) for a, b in zip(result, repeated, strict=True))


def test_fewer_keypoints_are_the_first_of_more(photo):
    few, many = (detect_keypoints(photo, "sift", keypoints=n) for n in (50, 400))
    np.testing.assert_array_equal(many.score[:50], few.score)


def test_position_and_scale_of_a_blob():
    y, x = np.mgrid[:128, :160]
    blob = np.exp(-((x - 80.0) ** 2 + (y - 50.0) ** 2) / (2 * 6.0**2))
    result = detect_keypoints((255 * blob).astype(np.uint8), "sift", keypoints=5)
    np.testing.assert_allclose(result.xy[0], (80, 50), atol=0.5)
    # A Gaussian blob responds most at its own scale, sqrt(2^(1/3)) above that of the layer.
    assert 4.5 < result.scale[0] < 7


def turned(photo):
    return np.ascontiguousarray(photo[::-1, ::-1])


def shift_of_keypoints(image, detector):
    """Mean shift of the keypoints of an image against those of the image turned by 180 degrees."""
    here, there = (detect_keypoints(i, detector, keypoints=2000) for i in (image, turned(image)))
    H, W = image.shape[:2]
    tree = cKDTree(np.column_stack([(W - 1, H - 1) - there.xy, 10 * np.log2(there.scale)]))
    features = np.column_stack([here.xy, 10 * np.log2(here.scale)])
    distance, index = tree.query(features, distance_upper_bound=1.5)
    same = np.isfinite(distance)
    assert same.mean() > 0.9
    return ((here.xy[same] - (W - 1, H - 1) + there.xy[index[same]]) / 2).mean(axis=0)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("margin", [(0, 0), (1, 0), (2, 3)])
def test_keypoints_are_not_shifted(photo, detector, margin):
    image = np.ascontiguousarray(photo[margin[0] :, margin[1] :])
    np.testing.assert_allclose(shift_of_keypoints(image, detector), 0, atol=0.01)


def test_orb_equals_opencv(photo):
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    _, expected = cv2.ORB.create(300).detectAndCompute(gray, None)
    result = describe_keypoints(photo, detect_keypoints(photo, "orb", keypoints=300), model="orb")
    assert sorted(map(bytes, result.numpy())) == sorted(map(bytes, expected))


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [((64, 96), 6, 6), ((640, 480), 1000, 1000), ((33, 33), 1, 1), ((20, 300), 100, 100)],
)
def test_grid_is_centred_and_bounded(shape, count, expected):
    result = detect_keypoints(np.zeros(shape, np.uint8), "grid", keypoints=count)
    assert 0.6 * expected <= len(result.xy) <= expected
    low, high = result.xy.min(axis=0), result.xy.max(axis=0)
    np.testing.assert_allclose(low + high, (shape[1] - 1, shape[0] - 1), atol=1e-3)


def test_flat_images_have_no_keypoints():
    flat = np.full((40, 50), 128, np.uint8)
    for detector in ("sift", "orb"):
        result = detect_keypoints(flat, detector)
        assert result.xy.shape == (0, 2)
        assert extract_patches(flat, result, 32).shape == (0, 1, 32, 32)


def test_invalid_arguments():
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
    x, y = x - 0.25, y - 0.25  # see test_keypoints_are_not_shifted
    result = describe_keypoints(photo, Keypoints(np.stack([x, y], 1), *rest), model="sift")
    # Angles were converted to radians and back: an entry may round to the next integer.
    difference = np.abs(result.numpy() - expected)
    assert len(points) > 300
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.01


def test_rootsift_is_the_root_of_normalised_sift(photo):
    points = detect_keypoints(photo, keypoints=20)
    sift, root = (
        describe_keypoints(photo, points, model="sift"),
        describe_keypoints(photo, points, model="rootsift"),
    )
    torch.testing.assert_close(root.square(), sift / sift.sum(dim=1, keepdim=True))


def test_orb_describes_keypoints_of_any_detector(photo):
    points = detect_keypoints(photo, "sift", keypoints=300)
    result = describe_keypoints(photo, points, model="orb")
    assert result.dtype == torch.uint8
    assert result.shape == (len(points.xy), 32)
    # Order and number are kept, although OpenCV drops keypoints.
    chosen = np.arange(0, len(points.xy), 7)
    subset = describe_keypoints(photo, points.select(chosen), model="orb")
    assert torch.equal(subset, result[chosen])
    assert (result.float().sum(dim=1) > 0).float().mean() > 0.7


def test_networks_describe_in_batches(photo):
    network, points = TFeat(), detect_keypoints(photo, keypoints=10)
    result = describe_keypoints(photo, points, model=network, batch=4)
    expected = network(extract_patches(photo, points, 32))
    torch.testing.assert_close(result, expected.detach())
    assert not result.requires_grad
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
        result = detect_keypoints(noise, detector, keypoints=20)
        for name in ("sift", "rootsift", "orb", network):
            assert len(describe_keypoints(noise, result, model=name)) == len(result.xy)


@pytest.mark.parametrize("scale", [0.1, 1.6, 40.0, 5000.0])
def test_keypoints_of_any_scale(photo, scale):
    single = keypoint(100, 100, scale)
    for name in ("sift", "orb", TFeat()):
        assert len(describe_keypoints(photo, single, model=name)) == 1
        assert describe_keypoints(photo, single, model=name).float().isfinite().all()


def test_sift_on_one_pyramid(photo):
    """Detection and description at once give what both give after each other."""
    points, descriptors = detect_and_describe_sift(photo, 300)
    for together, alone in zip(points, detect_keypoints(photo, keypoints=300), strict=True):
        np.testing.assert_array_equal(together, alone)
    expected = describe_keypoints(photo, points, model="sift").numpy()
    assert len(points.xy) == 300 and descriptors.shape == (300, 128)
    cosine = (descriptors * expected).sum(1) / np.prod(
        [np.linalg.norm(d, axis=1) for d in (descriptors, expected)], axis=0
    )
    assert np.median(cosine) > 0.999 and (cosine > 0.98).mean() > 0.97


@pytest.mark.parametrize("side", [5, 40])
def test_sift_of_nothing(side):
    points, descriptors = detect_and_describe_sift(np.full((side, side), 7, np.uint8), 10)
    assert points.xy.shape == (0, 2) and descriptors.shape == (0, 128)
    with pytest.raises(ValueError, match="keypoints must be positive, got 0"):
        detect_and_describe_sift(np.zeros((9, 9), np.uint8), 0)
