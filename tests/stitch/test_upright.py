"""Up in the photos is up in the panorama."""

import numpy as np
import pytest

from flowmatch.stitch import StitchOptions, find_cameras
from flowmatch.stitch.upright import straighten

from .conftest import turn
from .world import SETS, World, rotations, tilt

AUTO = "auto"


def in_other_axes(rotations, seed):
    """Return rotations to arbitrary axes, in arbitrary order, and those to the world's axes."""
    rng = np.random.default_rng([seed, 1])
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q))
    order = rng.permutation(len(rotations))
    return [q @ rotations[k] for k in order], [rotations[k] for k in order]


@pytest.mark.parametrize("name", SETS)
def test_sets_of_all_kinds_stand_upright(name):
    for seed in range(8):
        known, true = in_other_axes(rotations(name, 0.5, seed), seed)
        straight, agree = straighten(known, AUTO)
        assert agree
        assert tilt(straight, true) < 2
        # Up is up also for a camera that is never level.
        straight, agree = straighten(*in_other_axes(rotations(name), seed)[:1], AUTO)
        assert tilt(straight, in_other_axes(rotations(name), seed)[1]) < 0.5


@pytest.mark.parametrize("name", ["three high", "two wide, three high", "row", "circle at -20",
                                  "row, a photo turned", "two circles"])  # fmt: skip
def test_vertical_is_upright_too(name):
    known, true = in_other_axes(rotations(name, 0.5), 0)
    assert tilt(straighten(known, "vertical")[0], true) < 2


def test_horizontal_of_pitched_photos():
    known, true = in_other_axes([turn(yaw, -25) for yaw in (-20, 0, 20)], 3)
    assert tilt(straighten(known, "horizontal")[0], true) < 0.2


def test_the_middle_is_the_mean_direction():
    straight, _ = straighten([turn(yaw, 10, 3) for yaw in (100, 120, 140)], AUTO)
    forward = np.mean([R[:, 2] for R in straight], axis=0)
    assert abs(forward[0]) < 0.02 and forward[2] > 0.8
    for R in straight:
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(R) == pytest.approx(1)


def test_none_changes_nothing_and_rolls_are_reported():
    rolls = [0, 40, -25, 12, 30, -12, 22, -40, -33]
    rolled = [turn(20 * k, 0, roll) for k, roll in enumerate(rolls)]
    same, agree = straighten(rolled, "none")
    assert agree and all(a is b for a, b in zip(same, rolled, strict=True))
    assert not straighten(rolled, AUTO)[1]


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("three high", 55),
        ("two wide, three high", 55),
        ("row, a photo turned", 55),
        ("circle at -20", 60),
        ("two circles", 60),
    ],
)
def test_rendered_photos(name, view):
    """Photos of a known world, from pixels to cameras."""
    true = rotations(name, 0.5, 1)
    photos = World().photos(true, view)
    groups = find_cameras(photos, options=StitchOptions(keypoints=800))
    (group,) = groups.groups
    assert groups.left_out == () and group.messages == ()
    assert tilt([camera.matrix for camera in group.cameras.cameras], true) < 2
