"""The shipped weights align unseen images under strong changes of appearance."""

import numpy as np
import pytest
from skimage import data

from flowmatch.align import align_images, available, load
from flowmatch.align.evaluate import evaluate
from flowmatch.align.synthetic import SyntheticPairs


@pytest.fixture(scope="module")
def network():
    return load()


def test_index_documents_the_training():
    entry = available()["align-fit"]
    assert entry["default"]
    for key in ("summary", "recipe", "command", "data", "seed", "steps", "precision", "commit"):
        assert entry[key] is not None


def test_better_than_the_baselines_under_changed_appearance(network, photo):
    samples = SyntheticPairs([photo], appearance=1.0, seed=3)
    methods = {"network": network, "identity": "identity", "sift": "sift-affine"}
    scores = evaluate(methods, samples, 5)
    assert scores["network"].pck_box > 0.75
    assert scores["network"].pck_box > max(scores["identity"].pck_box, scores["sift"].pck_box) + 0.1


def test_a_negative_is_aligned_with_its_image(network, photo):
    alignment = align_images(photo, 255 - photo, model=network)
    corners = np.array([[20.0, 20], [430, 20], [430, 280], [20, 280], [225, 150]])
    assert np.abs(alignment.points(corners) - corners).max() < 12  # of 451 x 300


def test_sizes_may_differ(network, photo):
    half = np.ascontiguousarray(photo[::2, ::2])
    alignment = align_images(photo, half, model=network)
    centre = np.array([[225.0, 150.0]])
    assert np.abs(alignment.points(centre) - centre / 2).max() < 6
    assert alignment.warp(half).shape == photo.shape


def test_unrelated_images_are_not_aligned(network, photo):
    for other in (data.astronaut(), data.coins()):
        assert not align_images(photo, other, model=network).found
    assert align_images(photo, photo, model=network).found
