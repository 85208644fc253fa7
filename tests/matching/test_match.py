"""Matching recovers known motions with every descriptor, and checks its options."""

import cv2
import numpy as np
import pytest
import torch

from flowmatch.matching.describe import describe_keypoints
from flowmatch.matching.external import load_external
from flowmatch.matching.features import Features
from flowmatch.matching.fit import fit_geometry
from flowmatch.matching.keypoints import Keypoints, detect_keypoints
from flowmatch.matching.match import match_images
from flowmatch.matching.methods import match_features
from flowmatch.matching.networks import HardNet, SiamBranch
from flowmatch.matching.options import MatchOptions

TURNED = np.array([[0.9, -0.35, 90.0], [0.3, 0.95, -30.0], [1e-4, 5e-5, 1.0]])


@pytest.fixture(scope="module")
def views(photo):
    """A photograph and its view from another camera."""
    H, W = photo.shape[:2]
    return photo, cv2.warpPerspective(photo, TURNED, (W, H))


def match_rootsift(first, second, **options):
    return match_images(first, second, model="rootsift", options=MatchOptions(**options))


def corner_error(matrix, truth, shape):
    H, W = shape[:2]
    corners = np.array([[(0, 0), (W - 1, 0), (0, H - 1), (W - 1, H - 1)]], np.float64)
    ours, theirs = (cv2.perspectiveTransform(corners, m)[0] for m in (matrix, truth))
    return np.linalg.norm(ours - theirs, axis=1).mean()


@pytest.mark.parametrize(
    ("network", "detector", "inliers"),
    [
        ("rootsift", "sift", 100),
        ("sift", "sift", 100),
        ("orb", "orb", 60),
        (SiamBranch, "sift", 30),  # without training
        (HardNet, "sift", 30),
    ],
)
def test_a_known_homography_is_recovered(views, network, detector, inliers):
    network = network if isinstance(network, str) else network()
    matches = match_images(
        *views, model=network, options=MatchOptions(detector=detector, keypoints=1000)
    )
    assert corner_error(matches.matrix, TURNED, views[0].shape) < 2
    a, b = matches.points(inliers=True)
    assert len(a) == matches.inliers.sum() >= inliers
    mapped = cv2.perspectiveTransform(a[None].astype(np.float64), TURNED)[0]
    assert np.median(np.linalg.norm(mapped - b, axis=1)) < 1
    assert (np.diff(matches.distances) >= 0).all()
    assert len(np.unique(matches.matches[:, 0])) == len(np.unique(matches.matches[:, 1]))


def test_a_grid_matches_a_small_shift(photo):
    moved = np.roll(photo, (8, -16), axis=(0, 1))
    matches = match_images(
        photo, moved, model="rootsift", options=MatchOptions(detector="grid", keypoints=2000)
    )  # 8 pixels apart
    assert matches.inliers.sum() > 50
    np.testing.assert_allclose(matches.matrix, [[1, 0, -16], [0, 1, 8], [0, 0, 1]], atol=0.5)


def test_results_repeat(views):
    first, second = (match_rootsift(*views, keypoints=500) for _ in range(2))
    np.testing.assert_array_equal(first.matches, second.matches)
    np.testing.assert_array_equal(first.inliers, second.inliers)
    np.testing.assert_array_equal(first.matrix, second.matrix)


def test_images_without_keypoints(photo):
    flat = np.full((60, 80, 3), 128, np.uint8)
    for a, b in ((flat, photo), (photo, flat), (flat, flat)):
        matches = match_rootsift(a, b, keypoints=100)
        assert matches.matches.shape == (0, 2)
        assert matches.matrix is None
        assert matches.inliers.shape == (0,)


class _Brightness:
    """Comparator: positive if the central pixels of both patches are bright."""

    patch_size = 16

    def __call__(self, first, second):
        return torch.minimum(first[:, 0, 8, 8], second[:, 0, 8, 8]) - 0.5


def test_a_filter_rejects_matches(views):
    unfiltered = match_rootsift(*views, keypoints=500)
    filtered = match_rootsift(*views, keypoints=500, filter_model=_Brightness())
    assert 0 < len(filtered.matches) < len(unfiltered.matches)
    assert {tuple(p) for p in filtered.matches} < {tuple(p) for p in unfiltered.matches}


def test_ratio_and_mutual():
    points = Keypoints(np.zeros((3, 2), np.float32), *np.ones((3, 3), np.float32))
    first = Features(points, torch.tensor([[0.0, 0.0], [10.0, 0.0], [5.2, 0.0]]))
    second = Features(points, torch.tensor([[1.0, 0.0], [10.0, 0.5], [20.0, 0.0]]))
    for options, expected in (
        ({"ratio": None, "mutual": False}, [[1, 1], [0, 0], [2, 0]]),
        ({"ratio": None, "mutual": True}, [[1, 1], [0, 0]]),
        ({"ratio": 0.06, "mutual": False}, [[1, 1]]),
    ):
        pairs, distance = match_features(first, second, **options)
        assert pairs.tolist() == expected
        np.testing.assert_allclose(distance, [0.5, 1.0, 4.2][: len(expected)], rtol=1e-6)


# ---- Geometry ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rigid():
    """Two views of 3D points, their intrinsics, and the true essential matrix."""
    rng = np.random.default_rng(0)
    points = rng.uniform((-2, -2, 4), (2, 2, 8), (200, 3))
    rotation = cv2.Rodrigues(np.array([0.05, -0.2, 0.03]))[0]
    shift = np.array([1.0, 0.1, 0.2])
    K, L = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]), np.diag([650.0, 640, 1])
    L[:2, 2] = 300, 200
    views = []
    for camera, positions in ((K, points), (L, points @ rotation.T + shift)):
        projected = positions @ camera.T
        views.append((projected[:, :2] / projected[:, 2:]).astype(np.float32))
    views[1][::4] += rng.uniform(20, 60, (50, 2))  # a quarter of the points are outliers
    cross = np.array([[0, -shift[2], shift[1]], [shift[2], 0, -shift[0]], [-shift[1], shift[0], 0]])
    return views, (K, L), cross @ rotation


@pytest.mark.parametrize("geometry", ["fundamental", "essential"])
def test_epipolar_geometry_of_a_rigid_scene(rigid, geometry):
    views, cameras, essential = rigid
    first, second = (Keypoints(xy, *np.ones((3, len(xy)), np.float32)) for xy in views)
    pairs = np.stack([np.arange(200)] * 2, axis=1)
    distance = np.ones(200, np.float32)
    options = {"geometry": geometry, "threshold": 1.0, "intrinsics": cameras}
    result = fit_geometry(first, second, pairs, distance, **options)
    correct = np.arange(200) % 4 != 0
    assert result.inliers[correct].mean() > 0.97
    assert result.inliers[~correct].mean() < 0.2
    truth = essential
    if geometry == "fundamental":
        K, L = cameras
        truth = np.linalg.inv(L).T @ essential @ np.linalg.inv(K)
    ours, truth = (m / np.linalg.norm(m) for m in (result.matrix, truth))
    assert min(np.abs(ours - truth).max(), np.abs(ours + truth).max()) < 0.02


def test_without_a_geometry_all_matches_are_inliers(views):
    matches = match_rootsift(*views, keypoints=200, geometry=None)
    assert matches.matrix is None
    assert matches.inliers.all()
    assert len(matches.matches) > 30


def test_half_precision_describes_nearly_the_same(views):
    points = detect_keypoints(views[0], keypoints=40)
    exact, near = (
        describe_keypoints(views[0], points, precision=name) for name in ("float32", "bfloat16")
    )
    assert near.dtype == torch.float32
    assert 0 < (exact - near).norm(dim=1).max() < 0.05
    matches = match_images(*views, options=MatchOptions(keypoints=100, precision="bfloat16"))
    assert matches.inliers.sum() > 40


def test_too_few_matches_for_a_geometry():
    points = Keypoints(np.eye(3, 2, dtype=np.float32), *np.ones((3, 3), np.float32))
    pairs = np.stack([np.arange(3)] * 2, axis=1)
    result = fit_geometry(points, points, pairs, np.zeros(3, np.float32))
    assert result.matrix is None
    assert result.inliers.tolist() == [False] * 3


def test_options_are_checked():
    for options, reason in (
        (
            {"geometry": "affine"},
            "geometry must be one of homography, fundamental, essential, or None",
        ),
        ({"geometry": "essential"}, r"needs intrinsics, \[3, 3\] for both images, got none"),
        ({"threshold": 0.0}, "threshold must be a positive number of pixels, got 0.0"),
        ({"ratio": 2.0}, "0 < ratio <= 1"),
        ({"detector": "fast"}, "detector must be one of sift, orb, grid, disk, .*, got 'fast'"),
        ({"matcher": "glue"}, "matcher must be one of nearest, lightglue, loftr, got 'glue'"),
        ({"detector_weights": "w.pth"}, "weights of the detector are for disk, .* for 'sift'"),
        ({"matcher_weights": "w.pth"}, "weights of the matcher are for lightglue, loftr, got"),
        ({"matcher": "loftr", "detector": "disk"}, "loftr finds its keypoints itself"),
        ({"max_side": 0}, "max_side must be positive, got 0"),
        ({"batch": 0}, "batch must be positive, got 0"),
        ({"min_score": float("nan")}, "min_score must be finite, got nan"),
        ({"magnification": 0.0}, "magnification must be positive, got 0.0"),
        ({"precision": "int8"}, "precision must be one of float32, bfloat16, float16, got 'int8'"),
    ):
        with pytest.raises(ValueError, match=reason):
            MatchOptions(keypoints=50, **options)


@pytest.mark.parametrize(
    ("pair", "network", "correct"),
    [("graf", "rootsift", 400), ("graf", "tfeat", 380), ("v_churchill", "rootsift", 350)],
)
def test_real_viewpoints(shared_data, pair, network, correct):
    """Correct matches within 3 pixels of the known homography, on photographs."""
    from flowmatch.io import read_image

    folder = shared_data / "homography" / pair
    if not folder.is_dir():
        pytest.skip(f"the images of {pair} (../shared/data/homography) are missing")
    if pair == "graf":
        storage = cv2.FileStorage(str(folder / "H1to3p.xml"), cv2.FILE_STORAGE_READ)
        truth, names = storage.getFirstTopLevelNode().mat(), ("graf1.png", "graf3.png")
    else:
        truth, names = np.loadtxt(folder / "H_1_4"), ("1.png", "4.png")
    if network == "tfeat":
        network = load_external(shared_data / "interop" / "tfeat" / "tfeat-liberty.params")
    a, b = (read_image(folder / name) for name in names)
    matches = match_images(a, b, model=network)
    p, q = matches.points()
    error = np.linalg.norm(cv2.perspectiveTransform(p[None].astype(float), truth)[0] - q, axis=1)
    assert (error < 3).sum() >= correct
    # The homography of graf was fitted by hand and is a few pixels off itself.
    assert corner_error(matches.matrix, truth, a.shape) < 5


def test_keypoints_are_those_of_detect_keypoints(views):
    matches = match_rootsift(*views, keypoints=100)
    np.testing.assert_array_equal(
        matches.keypoints0.xy, detect_keypoints(views[0], keypoints=100).xy
    )


def test_guided_matching_finds_more_of_what_looks_alike():
    """Of a wall of equal tiles, the ratio test leaves few matches; the homography, most."""
    rng = np.random.default_rng(3)
    tile = cv2.resize(rng.integers(0, 255, (8, 8), np.uint8), (40, 40))
    wall = np.tile(tile, (8, 10)).astype(np.float32) + rng.normal(0, 2, (320, 400))
    wall[90:230, 120:280] = cv2.resize(rng.integers(0, 255, (35, 40), np.uint8), (160, 140))
    truth = np.array([[1.0, 0.05, -8.0], [-0.04, 1.0, 12.0], [0.0, 0.0, 1.0]])
    first = wall.clip(0, 255).astype(np.uint8)
    second = cv2.warpPerspective(first, truth, (400, 320))
    plain, guided = (match_rootsift(first, second, guided=on) for on in (False, True))
    assert guided.inliers.sum() > 1.5 * plain.inliers.sum()
    a, b = guided.points(inliers=True)
    mapped = cv2.perspectiveTransform(a[None].astype(np.float64), truth)[0]
    assert (np.linalg.norm(mapped - b, axis=1) < 3).mean() > 0.98
    assert corner_error(guided.matrix, truth, first.shape) < 1
    for side in (0, 1):
        assert len(np.unique(guided.matches[:, side])) == len(guided.matches)
    assert (np.diff(guided.distances) >= 0).all()


def test_what_masks_leave_out_is_not_matched(photo):
    """A label stuck on two pictures of different places is all that they share."""
    label = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    label = label.repeat(10, axis=0).repeat(10, axis=1)
    first, second = (np.ascontiguousarray(photo[:240, x : x + 200]) for x in (0, 200))
    first[30:130, 40:160] = second[100:200, 60:180] = label
    masks = [np.ones((240, 200), np.bool_), np.full((240, 200), 255, np.uint8)]
    masks[0][30:130, 40:160] = masks[1][100:200, 60:180] = 0
    options = MatchOptions(keypoints=500)
    found = match_images(first, second, model="rootsift", options=options)
    assert found.trusted
    np.testing.assert_allclose(found.matrix[:2, 2], (20, 70), atol=0.5)
    result = match_images(first, second, masks=masks, model="rootsift", options=options)
    assert not result.trusted
    for keypoints, mask in ((result.keypoints0, masks[0]), (result.keypoints1, masks[1])):
        x, y = keypoints.xy.round().astype(int).T
        assert len(x) > 20 and mask[y, x].all()
    one = match_images(first, second, masks=[masks[0], None], model="rootsift", options=options)
    assert not one.trusted and len(one.keypoints1.xy) == len(found.keypoints1.xy)
    with pytest.raises(ValueError, match="first mask must have the size of the first image, 200 x"):
        match_images(first, second, masks=[masks[0][1:], None], options=options)
