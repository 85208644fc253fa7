"""Views to be found again, and scores of describers that know or do not know."""

import numpy as np
import pytest
import torch

from flowmatch.io import write_image
from flowmatch.retrieval.evaluate import evaluate, make_gallery, make_views


class Knowing:
    """Describes pictures by what it is told; the order is that of the gallery."""

    about = "knowing"

    def __init__(self, things):
        self.things = iter(things)

    def fit(self, images):
        self.fitted = len(list(images))

    def __call__(self, image):
        return torch.eye(3)[next(self.things)]


@pytest.fixture
def gallery(tmp_path, photo):
    paths = []
    for k in range(3):
        paths.append(tmp_path / f"{k}.png")
        write_image(paths[-1], np.roll(photo, 50 * k, axis=1))
    return make_gallery(paths, views=3)


def test_views(photo):
    one, two = make_views(photo, 2, 5)
    assert one.shape == two.shape == (240, 320)
    assert one.dtype == np.uint8
    assert one.std() > 10
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(make_views(photo, 1, 5)[0], one)


def test_gallery(gallery):
    assert (len(gallery.queries), len(gallery.pictures)) == (3, 6)
    assert [truth.easy for truth in gallery.truths] == [(0, 1), (2, 3), (4, 5)]
    with pytest.raises(ValueError, match="at least 2 views of at least one photograph"):
        make_gallery([], views=2)


def test_scores(gallery):
    done = []
    right, wrong = Knowing([0, 1, 2, 0, 0, 1, 1, 2, 2]), Knowing([0, 1, 2, 1, 1, 2, 2, 0, 0])
    found = evaluate({"right": right, "wrong": wrong}, gallery, progress=done.append)
    assert found["right"][:5] == (3, 1.0, 1.0, 1.0, 1.0)
    assert found["wrong"].first == 0
    assert found["wrong"].mean_ap < 0.4
    assert right.fitted == 6
    assert done == list(range(1, 19))
