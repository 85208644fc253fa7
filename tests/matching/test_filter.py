"""A decision network is shown the right patches, and what it says is followed."""

import numpy as np
import pytest

from flowmatch.matching import load, match_images, save_weights
from flowmatch.matching.files import read_matches, write_matches
from flowmatch.matching.filter import decide_matches, find_similarity, similarity_of_matches
from flowmatch.matching.keypoints import detect, extract_patches
from flowmatch.matching.networks import HardNet, Siam


class Difference:
    """How much less than 0.1 the gray values of two patches differ."""

    patch_size, magnification = 16, 4.0

    def __call__(self, first, second):
        return 0.1 - (first - second).abs().mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def views(photo):
    return photo[:200, :300], photo[10:210, 20:320]


def test_similarities_are_of_the_patches_of_each_match(views):
    points = tuple(detect(image, keypoints=40) for image in views)
    pairs = np.random.default_rng(0).integers(0, 40, (30, 2))
    found = similarity_of_matches(Difference(), views, points, pairs, batch=7)
    for k in (0, 13, 29):
        patches = [
            extract_patches(image, some.select(np.array([index])), 16, magnification=4.0)
            for image, some, index in zip(views, points, pairs[k], strict=True)
        ]
        assert found[k] == pytest.approx(float(Difference()(*patches)), abs=1e-6)
    wide = similarity_of_matches(Difference(), views, points, pairs, magnification=8.0)
    assert np.abs(wide - found).max() > 1e-3
    none = similarity_of_matches(Difference(), views, points, pairs[:0])
    assert (none.shape, none.dtype) == ((0,), np.float32)
    with pytest.raises(ValueError, match="batch must be positive, got 0"):
        similarity_of_matches(Difference(), views, points, pairs, batch=0)


def test_kept_are_the_similar_ones_with_the_most_similar_first(views):
    points = tuple(detect(image, keypoints=40) for image in views)
    pairs = np.random.default_rng(1).integers(0, 40, (30, 2))
    distance = np.arange(30, dtype=np.float32)
    similar = similarity_of_matches(Difference(), views, points, pairs)
    above = float(np.median(similar))
    kept, far, said = decide_matches(Difference(), views, points, pairs, distance, above=above)
    order = sorted(np.flatnonzero(similar > above), key=lambda k: -similar[k])
    np.testing.assert_array_equal(kept, pairs[order])
    np.testing.assert_array_equal(far, distance[order])
    np.testing.assert_array_equal(said, similar[order])


def test_matches_of_images(views, tmp_path):
    everything = match_images("rootsift", *views, keypoints=300)
    assert everything.similarity is None
    judged = match_images("rootsift", *views, keypoints=300, decide=Difference(), above=0.09)
    assert 20 < len(judged.pairs) < len(everything.pairs)
    assert (np.diff(judged.similarity) <= 0).all()
    assert judged.similarity.min() > 0.09
    np.testing.assert_allclose(judged.matrix, [[1, 0, -20], [0, 1, -10], [0, 0, 1]], atol=0.1)
    nothing = match_images("rootsift", *views, keypoints=300, decide=Difference(), above=9.0)
    assert nothing.pairs.shape == (0, 2)
    assert nothing.similarity.shape == (0,)
    # Files keep what was said.
    for name in ("m.npz", "m.csv", "m.json"):
        write_matches(tmp_path / name, judged)
    np.testing.assert_array_equal(read_matches(tmp_path / "m.npz").similarity, judged.similarity)
    header, line, *_ = (tmp_path / "m.csv").read_text().splitlines()
    assert header == "x0,y0,x1,y1,distance,inlier,similarity"
    assert float(line.split(",")[6]) == pytest.approx(judged.similarity[0], rel=1e-5)
    assert '"similarity"' in (tmp_path / "m.json").read_text()
    write_matches(tmp_path / "m.npz", judged._replace(similarity=judged.similarity[:3]))
    with pytest.raises(ValueError, match=r"expected similarity as f4 \[K\], got float32 \[3\]"):
        read_matches(tmp_path / "m.npz")


def test_names(tmp_path, views):
    assert isinstance(find_similarity("siam"), Siam)
    points = tuple(detect(image, keypoints=5) for image in views)
    pairs = np.array([[0, 0], [1, 1]])
    named = similarity_of_matches("siam", views, points, pairs)
    np.testing.assert_array_equal(named, similarity_of_matches(load("siam"), views, points, pairs))
    with pytest.raises(ValueError, match="a decision is one of siam, 2ch, or a file, got 'hard"):
        find_similarity("hardnet-half")
    save_weights(tmp_path / "w.safetensors", HardNet(width=0.25), "hardnet", {"width": 0.25})
    with pytest.raises(ValueError, match="describes patches, it does not compare them"):
        find_similarity(str(tmp_path / "w.safetensors"))
    with pytest.raises(FileNotFoundError):
        find_similarity(str(tmp_path / "none.safetensors"))


def test_magnification_of_a_decision_is_kept_in_its_file(tmp_path):
    network = Siam(magnification=12.0)
    save_weights(tmp_path / "w.safetensors", network, "siam", {"magnification": 12.0})
    assert find_similarity(str(tmp_path / "w.safetensors")).magnification == 12
    with pytest.raises(ValueError, match="0 < magnification <= 100, got -1"):
        Siam(magnification=-1)
