"""Views of photographs, and scores of describers that are right or wrong."""

import numpy as np
import pytest
import torch

from flowmatch.io import write_image
from flowmatch.retrieval.evaluation.evaluate import evaluate, make_gallery, make_views


class Labels:
    """Describes images by given labels, in the order of the gallery."""

    about = "labels"

    def __init__(self, labels):
        self.labels = iter(labels)

    def fit(self, images):
        self.fitted = len(list(images))

    def __call__(self, image):
        return torch.eye(3)[next(self.labels)]


@pytest.fixture
def gallery(tmp_path, photo):
    paths = []
    for k in range(3):
        paths.append(tmp_path / f"{k}.png")
        write_image(paths[-1], np.roll(photo, 50 * k, axis=1))
    return make_gallery(paths, views=3)


def test_views(photo):
    first, second = make_views(photo, 2, 5)
    assert first.shape == second.shape == (240, 320)
    assert first.dtype == np.uint8
    assert first.std() > 10
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(make_views(photo, 1, 5)[0], first)


def test_gallery(gallery):
    assert (len(gallery.queries), len(gallery.images)) == (3, 6)
    assert [truth.easy for truth in gallery.truths] == [(0, 1), (2, 3), (4, 5)]
    with pytest.raises(ValueError, match="at least 2 views of at least one photograph"):
        make_gallery([], views=2)


def test_scores(gallery):
    calls = []
    right, wrong = Labels([0, 1, 2, 0, 0, 1, 1, 2, 2]), Labels([0, 1, 2, 1, 1, 2, 2, 0, 0])
    scores = evaluate(
        {"right": right, "wrong": wrong}, gallery, progress=lambda *call: calls.append(call)
    )
    assert scores["right"][:5] == (3, 1.0, 1.0, 1.0, 1.0)
    assert scores["wrong"].first == 0
    assert scores["wrong"].mean_ap < 0.4
    assert right.fitted == 6
    assert calls == [("describing", k, 18) for k in range(1, 19)]
