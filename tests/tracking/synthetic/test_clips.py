"""Rendered objects: their boxes, their visibility, and the clips and crops made of them."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from flowmatch.flow.synthetic import Layer, Motion, Scene, Sources, translate
from flowmatch.tracking.boxes import Region, decode_box
from flowmatch.tracking.synthetic import CropPairs, object_box, render_clip, visible_share
from flowmatch.tracking.synthetic.clips import LENGTH, SIZE
from flowmatch.tracking.synthetic.crops import disturb

STILL = Motion()


@pytest.fixture(scope="module")
def sources(photo):
    """A photograph, and an opaque disc."""
    y, x = np.mgrid[:64, :64] - 31.5
    disc = np.full((64, 64, 4), 200, np.uint8)
    disc[..., 3] = 255 * (x**2 + y**2 < 30**2)
    return Sources((photo,), (disc,), procedural=0.0)


def scene_of(*places, motion=STILL):
    ground = Layer(np.zeros((200, 200, 3), np.uint8), np.eye(3))
    white, alpha = np.full((20, 30, 3), 255, np.uint8), np.zeros((20, 30), np.uint8)
    alpha[5:15, 10:25] = 255
    boards = (Layer(white, translate(*place), motion, alpha) for place in places)
    return Scene((100, 120), (ground, *boards))


def test_the_box_of_a_layer_is_that_of_its_pixels():
    scene = scene_of((40, 30), motion=Motion(translation=(4, -2)))
    assert object_box(scene, 1, 0).tolist() == [50, 35, 15, 10]
    assert object_box(scene, 1, 3).tolist() == [62, 29, 15, 10]
    y, x = np.nonzero(scene.render(3).layer == 1)
    assert (x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1) == (62, 29, 15, 10)


def test_visible_shares():
    scene = scene_of((40, 30), (40, 35), (-20, 30))  # half covered; whole; a third in the frame
    layers = scene.render(0).layer
    shares = [visible_share(scene, index, 0, layers) for index in (1, 2, 3)]
    np.testing.assert_allclose(shares, [0.5, 1, 1 / 3], atol=0.01)
    with pytest.raises(ValueError, match="fills the frame"):
        visible_share(scene, 0, 0, layers)


def test_clips_repeat_and_are_true(sources):
    clip, again = render_clip(sources, seed=3), render_clip(sources, seed=3)
    assert len(clip.frames) == LENGTH and clip.frames[0].shape == (*SIZE, 3)
    np.testing.assert_array_equal(clip.frames[5], again.frames[5])
    assert not np.array_equal(clip.frames[5], render_clip(sources, seed=4).frames[5])
    assert clip.visible[0].all() and 0.3 < clip.visible.mean() < 1
    assert clip.shares[0].min() >= 0.8 and 1 <= clip.boxes.shape[1] <= 3
    # All motions swing: in the middle of the clip everything is where it began.
    middle = LENGTH // 2
    np.testing.assert_allclose(clip.points[middle], clip.points[0], atol=1e-3)
    np.testing.assert_allclose(clip.boxes[middle], clip.boxes[0], atol=1e-3)
    x, y = clip.points[middle][clip.visible[middle]].round().astype(int).T
    difference = clip.frames[middle].astype(int) - clip.frames[0]
    assert np.abs(difference[y, x]).mean() < 8  # noise


def test_crops_repeat_and_show_the_object(sources):
    pairs = CropPairs(sources, pool=2, reuse=4, seed=1)
    first, copy = pairs[5], pickle.loads(pickle.dumps(pairs))[5]
    for part, same in zip(first, copy, strict=True):
        np.testing.assert_array_equal(part, same)
    items = [pairs[index] for index in range(40)]
    present = np.array([item.present for item in items])
    assert 0.6 < present.mean() < 1
    boxes = np.array([decode_box(item.code, Region(0, 0, 80, 80)) for item in items])
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    inside = ((centres > 0) & (centres < 80)).all(1)
    assert inside[present == 1].all()
    with pytest.raises(IndexError):
        replace(pairs, length=3)[3]
    with pytest.raises(ValueError, match="must be positive"):
        CropPairs(sources, pool=0)


def test_small_disturbances_are_most_frequent():
    rng = np.random.default_rng(0)
    box = np.array([100.0, 50, 40, 20])
    moved = np.array([disturb(rng, box, 0.2, 1 / 15) for _ in range(4000)])
    shift = (moved[:, :2] + moved[:, 2:] / 2 - (120, 60)) / (40, 20)
    assert abs(np.median(np.abs(shift)) - 0.2 * np.log(2)) < 0.01  # of a Laplace distribution
    assert np.abs(shift).max() <= 0.8 and abs(shift.mean()) < 0.02
    assert abs(np.median(np.abs(moved[:, 2:] / box[2:] - 1)) - np.log(2) / 15) < 0.005
