"""A filter network compares the patches of each match, and its scores select the matches."""

import numpy as np
import pytest

from flowmatch.matching import MatchOptions, load, match_images, save_weights
from flowmatch.matching.files import read_matches, write_matches
from flowmatch.matching.filter import filter_matches, load_comparator, score_matches
from flowmatch.matching.keypoints import detect_keypoints
from flowmatch.matching.networks import HardNet, Siam
from flowmatch.matching.patches import extract_patches


class Difference:
    """Comparator: 0.1 minus the mean difference of the gray values."""

    patch_size, magnification = 16, 4.0

    def __call__(self, first, second):
        return 0.1 - (first - second).abs().mean(dim=(1, 2, 3))


def match_rootsift(views, **options):
    options = MatchOptions(keypoints=300, **options)
    return match_images(*views, model="rootsift", options=options)


@pytest.fixture(scope="module")
def views(photo):
    return photo[:200, :300], photo[10:210, 20:320]


def test_scores_compare_the_patches_of_each_match(views):
    points = tuple(detect_keypoints(image, keypoints=40) for image in views)
    pairs = np.random.default_rng(0).integers(0, 40, (30, 2))
    scores = score_matches(views, points, pairs, model=Difference(), batch=7)
    for k in (0, 13, 29):
        patches = [
            extract_patches(image, keypoints.select(np.array([index])), 16, magnification=4.0)
            for image, keypoints, index in zip(views, points, pairs[k], strict=True)
        ]
        assert scores[k] == pytest.approx(float(Difference()(*patches)), abs=1e-6)
    wide = score_matches(views, points, pairs, model=Difference(), magnification=8.0)
    assert np.abs(wide - scores).max() > 1e-3
    empty = score_matches(views, points, pairs[:0], model=Difference())
    assert (empty.shape, empty.dtype) == ((0,), np.float32)
    with pytest.raises(ValueError, match="batch must be positive, got 0"):
        score_matches(views, points, pairs, model=Difference(), batch=0)


def test_similar_matches_are_kept_in_order_of_score(views):
    points = tuple(detect_keypoints(image, keypoints=40) for image in views)
    pairs = np.random.default_rng(1).integers(0, 40, (30, 2))
    distance = np.arange(30, dtype=np.float32)
    scores = score_matches(views, points, pairs, model=Difference())
    min_score = float(np.median(scores))
    kept, kept_distances, kept_scores = filter_matches(
        views, points, pairs, distance, model=Difference(), min_score=min_score
    )
    order = sorted(np.flatnonzero(scores > min_score), key=lambda k: -scores[k])
    np.testing.assert_array_equal(kept, pairs[order])
    np.testing.assert_array_equal(kept_distances, distance[order])
    np.testing.assert_array_equal(kept_scores, scores[order])


def test_matches_of_images(views, tmp_path):
    unfiltered = match_rootsift(views)
    assert unfiltered.scores is None
    filtered = match_rootsift(views, filter_model=Difference(), min_score=0.09)
    assert 20 < len(filtered.matches) < len(unfiltered.matches)
    assert (np.diff(filtered.scores) <= 0).all()
    assert filtered.scores.min() > 0.09
    np.testing.assert_allclose(filtered.matrix, [[1, 0, -20], [0, 1, -10], [0, 0, 1]], atol=0.1)
    empty = match_rootsift(views, filter_model=Difference(), min_score=9.0)
    assert empty.matches.shape == (0, 2)
    assert empty.scores.shape == (0,)
    # Files keep the scores.
    for name in ("m.npz", "m.csv", "m.json"):
        write_matches(tmp_path / name, filtered)
    np.testing.assert_array_equal(read_matches(tmp_path / "m.npz").scores, filtered.scores)
    header, line, *_ = (tmp_path / "m.csv").read_text().splitlines()
    assert header == "x0,y0,x1,y1,distance,inlier,score"
    assert float(line.split(",")[6]) == pytest.approx(filtered.scores[0], rel=1e-5)
    assert '"score"' in (tmp_path / "m.json").read_text()
    write_matches(tmp_path / "m.npz", filtered._replace(scores=filtered.scores[:3]))
    with pytest.raises(ValueError, match=r"expected scores as f4 \[K\], got float32 \[3\]"):
        read_matches(tmp_path / "m.npz")


def test_names(tmp_path, views):
    assert isinstance(load_comparator("siam"), Siam)
    points = tuple(detect_keypoints(image, keypoints=5) for image in views)
    pairs = np.array([[0, 0], [1, 1]])
    named = score_matches(views, points, pairs, model="siam")
    np.testing.assert_array_equal(named, score_matches(views, points, pairs, model=load("siam")))
    with pytest.raises(ValueError, match="a filter must be one of siam, 2ch, or a file, got 'hard"):
        load_comparator("hardnet-half")
    save_weights(tmp_path / "w.safetensors", HardNet(width=0.25), "hardnet", {"width": 0.25})
    with pytest.raises(ValueError, match="describes patches, it does not compare them"):
        load_comparator(str(tmp_path / "w.safetensors"))
    with pytest.raises(FileNotFoundError):
        load_comparator(str(tmp_path / "none.safetensors"))


def test_magnification_of_a_filter_network_is_kept_in_its_file(tmp_path):
    network = Siam(magnification=12.0)
    save_weights(tmp_path / "w.safetensors", network, "siam", {"magnification": 12.0})
    assert load_comparator(str(tmp_path / "w.safetensors")).magnification == 12
    with pytest.raises(ValueError, match="0 < magnification <= 100, got -1"):
        Siam(magnification=-1)
