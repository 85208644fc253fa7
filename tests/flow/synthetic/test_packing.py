"""Plans as tensors: their rectangles, passes and checks."""

import numpy as np
import pytest

from flowmatch.flow.synthetic import packing
from flowmatch.flow.synthetic.packing import MAX_CENTRES, pack_plans
from flowmatch.flow.synthetic.plan import Flip, Plan
from flowmatch.flow.synthetic.scene import Deformation, Layer, Motion, Scene, translate


def plan_of(effects, *layers, size=(40, 60)):
    background = Layer(np.zeros((8, 8, 3), np.uint8), np.eye(3))
    return Plan(Scene(size, (background, *layers)), effects, Flip())


def square(x, y, deformation=None):
    opaque = np.full((10, 10), 255, np.uint8)
    texture = np.full((10, 10, 3), 200, np.uint8)
    return Layer(texture, translate(x, y), Motion(translation=(5, 0)), opaque, deformation)


def test_rectangles_by_hand(only):
    """The background fills both views; the square touches one pixel around itself."""
    packed = pack_plans([plan_of(only(), square(20, 10))])
    assert packed.size == (40, 60)
    assert packed.rectangles[:, :5].tolist() == [
        [0, 0, 0, 60, 40],
        [1, 0, 0, 60, 40],
        [0, 19, 9, 12, 12],
        [1, 24, 9, 12, 12],
    ]
    assert packed.rectangles[:, 5].tolist() == [0, 0, 100, 100]  # after 10 x 10 texels
    assert packed.texels.shape == (100 + 144, 4)
    assert [tuple(group) for group in packed.passes] == [
        (0, 2, 0, False, True),
        (2, 4, 1, False, False),
    ]
    assert packed.motions[0, 1, :2, 2].tolist() == [5, 0]


def test_many_pixels_are_split_into_passes(only, monkeypatch):
    monkeypatch.setattr(packing, "PIXELS_AT_ONCE", 60 * 40)
    packed = pack_plans([plan_of(only())] * 3)
    assert [(group.start, group.stop) for group in packed.passes] == [(k, k + 1) for k in range(6)]


def test_plans_must_have_one_size(only):
    with pytest.raises(ValueError, match="must have one size, got no plan"):
        pack_plans([])
    with pytest.raises(ValueError, match=r"must have one size, got \[\(40, 60\), \(40, 61\)\]"):
        pack_plans([plan_of(only()), plan_of(only(), size=(40, 61))])


def test_deformations_have_few_centres(only):
    count = MAX_CENTRES + 1
    deformation = Deformation(np.zeros((count, 2)), np.zeros((count, 2)), np.ones(count))
    with pytest.raises(ValueError, match="at most 3 centres, got 4"):
        pack_plans([plan_of(only(), square(5, 5, deformation))])
