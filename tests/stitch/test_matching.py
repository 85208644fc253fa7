"""Views, pairs and groups of photos."""

import numpy as np
import pytest

from flowmatch.matching.features import Features, Matches
from flowmatch.matching.keypoints import Keypoints
from flowmatch.matching.methods import load_methods
from flowmatch.stitch import StitchOptions, find_cameras
from flowmatch.stitch.matching import (
    LeftOut,
    Pair,
    View,
    _plausible_points,
    explain_ungrouped,
    extract_features,
    fit_pair,
    group_views,
)
from flowmatch.stitch.pairs import _neighbours, match_views
from flowmatch.stitch.photos import Photo, open_photos

from .conftest import FOCAL, SIZE, intrinsics, turn
from .world import World, tilt


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
    methods = load_methods("rootsift", "cpu", options.matching())
    views, unreadable = extract_features(
        opened, methods.extractor, options, progress=lambda *call: calls.append(call)
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
    pairs = match_views(views, methods.matcher, options, progress=lambda *call: calls.append(call))
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
    small = POINTS / 40
    for a, b in ((POINTS, small), (small, POINTS)):
        implausible = fit_pair(pair(0, 1, a, b), views, "rotation")
        assert implausible.inliers == 40 and implausible.confidence == 0
        assert implausible.reason == (
            "the matches agree on a map that would fold or mirror the photo"
        )


def test_a_fold_through_the_overlap_is_not_plausible():
    """The points on one side of the line that is mapped to infinity are mirrored."""
    folding = np.array([[1, 0, 0], [0, 1, 0], [-1 / 120, 0, 1]])
    plausible = _plausible_points(folding, POINTS.astype(np.float32))
    assert plausible[POINTS[:, 0] < 100].all() and not plausible[POINTS[:, 0] > 120].any()
    # The sign of a homography means nothing.
    np.testing.assert_array_equal(_plausible_points(-folding, POINTS), plausible)
    assert not _plausible_points(np.diag([-1.0, 1, 1]), POINTS).any()


@pytest.mark.parametrize(
    ("first", "second", "yaw"), [(110, 40, 40), (100, 60, 45), (110, 110, 50), (60, 60, 30)]
)
def test_wide_lenses_in_both_directions(first, second, yaw):
    """Corners of a wide photo lie behind the other camera, but not the overlap."""
    K, L = (intrinsics(SIZE[0] / 2 / np.tan(np.radians(v) / 2), SIZE) for v in (first, second))
    matrix = L @ turn(yaw).T @ np.linalg.inv(K)
    rng = np.random.default_rng(0)
    points = np.c_[rng.uniform(0, SIZE, (4000, 2)), np.ones(4000)]
    moved = points @ matrix.T
    xy = moved[:, :2] / moved[:, 2:]
    seen = (moved[:, 2] > 0) & (xy > 0).all(axis=1) & (xy < SIZE).all(axis=1)
    a, b = points[seen][:100, :2], xy[seen][:100]
    for source, target in ((a, b), (b, a)):
        fitted = fit_pair(pair(0, 1, source, target), [view("a"), view("b")], "rotation")
        assert fitted.reason is None
        assert fitted.inliers == len(a) > 90


@pytest.mark.parametrize("angle", [60, 80, 100, 110])
def test_lenses_of_60_to_110_degrees_stitch(angle):
    true = [turn(k * 0.45 * angle) for k in (-1, 0, 1)]
    groups = find_cameras(World().photos(true, angle), options=StitchOptions(keypoints=1500))
    (group,) = groups.groups
    assert len(group.photos) == 3 and group.cameras.motion == "rotation"
    focal = 150 / np.tan(np.radians(angle) / 2)
    assert [c.focal for c in group.cameras.cameras] == pytest.approx([focal] * 3, rel=0.02)
    assert tilt([camera.matrix for camera in group.cameras.cameras], true) < 2


def test_neighbours():
    # Views are sorted by content; photo 3 could not be read.
    views = [view(str(number), number) for number in (4, 0, 2, 1, 5)]

    def numbers(neighbours):
        pairs = _neighbours(views, neighbours)
        assert all(a < b for a, b in pairs)
        return {tuple(sorted(int(views[k].name) for k in pair)) for pair in pairs}

    assert numbers(1) == {(0, 1), (1, 2), (2, 4), (4, 5), (0, 5)}
    assert len(numbers(2)) == len(numbers(9)) == 10
    assert len(_neighbours([view("", k) for k in range(100)], 2)) == 200


@pytest.fixture(scope="module")
def circle_and_others():
    """Views of a full circle of 24 photos, and of three photos of something else."""
    true = [turn(yaw) for yaw in range(0, 360, 15)]
    photos = World().photos(true, 50) + World(seed=5).photos(true[:3], 50)
    options = StitchOptions(keypoints=600)
    methods = load_methods("rootsift", "cpu", options.matching())
    views, _ = extract_features(open_photos(photos), methods.extractor, options)
    return views, methods.matcher


def overlapping(views):
    """Return the pairs of views of the circle whose directions differ by at most 30 degrees."""
    numbers = [view.photo.number for view in views]
    return {
        (i, j)
        for i, a in enumerate(numbers)
        for j, b in enumerate(numbers)
        if i < j and max(a, b) < 24 and min((a - b) % 24, (b - a) % 24) <= 2
    }


def test_few_pairs_give_the_groups_of_all(circle_and_others):
    views, matcher = circle_and_others
    calls = []
    pairs = match_views(
        views, matcher, StitchOptions(keypoints=600), lambda *call: calls.append(call)
    )
    assert sorted(map(len, group_views(pairs, len(views), 1.0))) == [3, 24]
    confident = {(p.first, p.second) for p in pairs if p.confidence >= 1}
    assert confident >= overlapping(views)  # also the pair that closes the circle
    # 351 pairs in all, of which 72 join the two groups.
    assert 72 < len(calls) < 230 and calls[-1][1] == calls[-1][2] == len(calls)
    keys = [(p.first, p.second) for p in pairs]
    assert keys == sorted(set(keys))


def test_each_is_matched_with_the_most_similar(circle_and_others):
    views, matcher = circle_and_others
    pairs = match_views(views, matcher, StitchOptions(keypoints=600, similar=4))
    assert len(pairs) <= 4 * 27
    assert len({(p.first, p.second) for p in pairs} & overlapping(views)) >= 0.95 * 48
    assert sorted(map(len, group_views(pairs, len(views), 1.0))) == [3, 24]
    also = match_views(views, matcher, StitchOptions(keypoints=600, similar=1, neighbours=1))
    assert {(p.first, p.second) for p in also} > _neighbours(views, 1)


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
