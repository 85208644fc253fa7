"""Views, pairs and groups of photos."""

import numpy as np
import pytest

from flowmatch.matching.keypoints import Keypoints
from flowmatch.matching.match import Features, Matches
from flowmatch.stitch import StitchOptions
from flowmatch.stitch.matching import (
    LeftOut,
    Pair,
    View,
    explain_ungrouped,
    extract_features,
    fit_pair,
    group_views,
    match_views,
)
from flowmatch.stitch.photos import Photo, open_photos

from .conftest import FOCAL, SIZE, intrinsics, turn


def keypoints(xy):
    xy = np.asarray(xy, np.float32).reshape(-1, 2)
    ones = np.ones(len(xy), np.float32)
    return Keypoints(xy, ones, 0 * ones, ones)


def view(name, number=0, points=((1, 1),)):
    return View(Photo(None, name, number), SIZE, SIZE, Features(keypoints(points), None), name)


def pair(first, second, points0, points1, inliers=0, confidence=0.0, reason=None):
    N = len(points0)
    matches = Matches(
        keypoints(points0), keypoints(points1), np.stack([np.arange(N)] * 2, axis=1),
        np.zeros(N, np.float32), np.arange(N) < inliers, None, None,
    )  # fmt: skip
    return Pair(first, second, matches, confidence, reason)


POINTS = np.random.default_rng(0).uniform(20, 220, (40, 2))


def test_views_are_sorted_by_content(photos, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    opened = open_photos([photos[2], tmp_path / "broken.jpg", photos[0], photos[1]])
    options, calls = StitchOptions(keypoints=200, keypoint_megapixels=0.02), []
    views, unreadable = extract_features(
        opened, "rootsift", options, progress=lambda *call: calls.append(call)
    )
    assert calls == [("keypoints", k, 4) for k in (1, 2, 3, 4)]
    ((name, reason),) = unreadable
    assert name == "broken.jpg" and "is damaged" in reason
    assert [view.digest for view in views] == sorted(view.digest for view in views)
    assert {view.name: view.photo.number for view in views} == {
        "photo 1": 0, "photo 3": 2, "photo 4": 3
    }  # fmt: skip
    for item in views:
        assert item.full_size == (320, 240) and item.size == (163, 122)
        assert 0 < len(item.features.keypoints.xy) <= 200
        assert item.features.descriptors.shape == (len(item.features.keypoints.xy), 128)
    calls.clear()
    pairs = match_views(views, options, progress=lambda *call: calls.append(call))
    assert [(p.first, p.second) for p in pairs] == [(0, 1), (0, 2), (1, 2)]
    assert calls == [("matches", k, 3) for k in (1, 2, 3)]


def test_homography_of_a_rotation():
    K = intrinsics(FOCAL, SIZE)
    matrix = K @ turn(8, 2).T @ np.linalg.inv(K)
    moved = np.c_[POINTS, np.ones(40)] @ matrix.T
    moved = moved[:, :2] / moved[:, 2:]
    moved[:4] += 50  # wrong matches
    fitted = fit_pair(pair(0, 1, POINTS, moved), [view("a"), view("b")], "rotation")
    assert fitted.inliers == 36 and fitted.reason is None
    assert fitted.confidence == pytest.approx(36 / (8 + 0.3 * 40))
    np.testing.assert_allclose(fitted.matches.matrix / fitted.matches.matrix[2, 2],
                               matrix / matrix[2, 2], rtol=1e-3, atol=1e-4)  # fmt: skip
    assert not fitted.matches.inliers[:4].any()


def test_similarity_of_scans():
    matrix = np.array([[0.9, -0.2, 30], [0.2, 0.9, -10]])
    moved = np.c_[POINTS, np.ones(40)] @ matrix.T
    moved[::10] += 30  # wrong matches
    fitted = fit_pair(pair(0, 1, POINTS, moved), [view("a"), view("b")], "affine")
    assert fitted.inliers == 36
    np.testing.assert_allclose(fitted.matches.matrix[:2], matrix, atol=1e-4)


def test_pairs_without_a_plausible_map():
    views = [view("a"), view("b")]
    few = fit_pair(pair(0, 1, POINTS[:3], POINTS[:3]), views, "rotation")
    assert (few.inliers, few.confidence, few.matches.matrix) == (0, 0.0, None)
    # The points lie in front of the second camera, the right edge of the photo behind it.
    folding = np.array([[1, 0, 0], [0, 1, 0], [-0.004, 0, 1]])
    moved = np.c_[POINTS, np.ones(40)] @ folding.T
    folded = fit_pair(pair(0, 1, POINTS, moved[:, :2] / moved[:, 2:]), views, "rotation")
    assert folded.inliers == 40 and folded.confidence == 0
    assert folded.reason == "the matches agree on a map that would fold or mirror the photo"


def test_groups_are_connected_components():
    def confident(first, second, confidence):
        return pair(first, second, POINTS, POINTS, confidence=confidence)

    pairs = [
        confident(0, 3, 1.2),
        confident(3, 5, 1.0),
        confident(1, 2, 2.0),
        confident(2, 3, 0.99),
    ]
    assert group_views(pairs, 6, 1.0) == [[0, 3, 5], [1, 2], [4]]
    assert group_views(pairs, 6, 0.9) == [[0, 1, 2, 3, 5], [4]]
    assert group_views([], 2, 1.0) == [[0], [1]]


def test_reasons_of_photos_without_a_group():
    views = [view("a"), view("b"), view("c"), view("d", points=())]
    pairs = [
        pair(0, 1, POINTS[:30], POINTS[:30], inliers=5, confidence=0.29),
        pair(0, 2, POINTS[:20], POINTS[:20], inliers=9, confidence=0.6),
        pair(1, 2, POINTS, POINTS, inliers=20, reason="it is mirrored"),
    ]
    assert explain_ungrouped(0, pairs, views, 1.0) == LeftOut(
        "a", "overlaps too little; best with c: 20 matches, 9 inliers, confidence 0.60, 1.00 needed"
    )
    assert explain_ungrouped(1, pairs[2:], views, 1.0).reason == (
        "overlaps with no other photo; best with c: 40 matches, 20 inliers; it is mirrored"
    )
    assert explain_ungrouped(3, pairs, views, 1.0).reason == (
        "no keypoints: it is blank, blurred or too small"
    )
    assert explain_ungrouped(0, [], views[:1], 1.0).reason == "no other photo could be read"
