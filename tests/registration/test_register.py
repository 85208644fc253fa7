"""Registration of scans whose motion is known."""

import re
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from torch import nn

from flowmatch.geometry import invert_motion, transform_points
from flowmatch.io import read_cloud
from flowmatch.registration import MODELS, RegisterOptions, register_many, register_scans
from tests.registration.scenes import (
    balls,
    errors,
    motion,
    part,
    room,
    symmetric_room,
    table,
)


@pytest.fixture(scope="module")
def scans():
    cloud = room()
    return part(cloud, 0, 2.8, 1), part(cloud, 1.2, 4, 2)


@pytest.mark.parametrize("seed", range(3))
def test_halves_of_a_room_from_any_initial_rotation(scans, seed):
    truth = motion(seed)
    result = register_scans(
        scans[0],
        transform_points(truth, scans[1]),
        model="fpfh",
        options=RegisterOptions(voxel=0.05, seed=seed),
    )
    angle, distance = errors(result.motion, truth)
    assert angle < 0.5
    assert distance < 0.03
    assert result.trusted, result.reason
    # The parts share 1.6 of the 2.8 units that each spans.
    assert 0.45 < result.overlap < 0.75
    assert result.rmse < 0.02
    ends = result.correspondences[result.inliers]
    error = np.linalg.norm(transform_points(truth, ends[:, 0]) - ends[:, 1], axis=1)
    assert (error < 3 * result.voxel).mean() > 0.9
    assert "correspondences agree" in result.reason


def test_results_are_reproducible(scans):
    first, second = (
        register_scans(*scans, model="fpfh", options=RegisterOptions(voxel=0.05)) for _ in range(2)
    )
    np.testing.assert_array_equal(first.motion, second.motion)


def test_scans_of_different_things_are_not_trusted(scans):
    for seed in range(3):
        options = RegisterOptions(voxel=0.05, seed=seed)
        result = register_scans(
            scans[0], transform_points(motion(seed), balls(seed)), model="fpfh", options=options
        )
        assert not result.trusted, result.reason


def test_planes_are_degenerate_and_not_trusted():
    rng = np.random.default_rng(0)
    plane = rng.uniform(0, 1, (2000, 3)) * [1, 1, 0] + 0.002 * rng.normal(size=(2000, 3))
    result = register_scans(plane, transform_points(motion(0), plane + [0.2, 0, 0]), model="fpfh")
    assert not result.trusted


@pytest.mark.parametrize("furniture", [4, 6, 8])
def test_a_symmetric_room_with_other_furniture_is_not_trusted(furniture):
    """The walls fit as well after half a turn, and matches on furniture are chance."""
    noise = 0.005 * np.random.default_rng(furniture).normal(size=(2, 200_000, 3))
    first, second = (
        cloud + noise[k, : len(cloud)]
        for k, cloud in enumerate((symmetric_room(0), symmetric_room(furniture)))
    )
    result = register_scans(first, transform_points(motion(1), second), model="fpfh")
    assert not result.trusted, result.reason


def test_a_symmetric_room_with_the_same_furniture_is_trusted():
    noise = 0.005 * np.random.default_rng(0).normal(size=(2, 200_000, 3))
    cloud = symmetric_room(0)
    first, second = cloud + noise[0, : len(cloud)], cloud + noise[1, : len(cloud)]
    result = register_scans(first, transform_points(motion(1), second), model="fpfh")
    assert result.trusted, result.reason
    assert errors(result.motion, motion(1))[0] < 0.5


@pytest.mark.parametrize("turn", [30, 90])
def test_a_thing_on_a_table_is_trusted(turn):
    """The thing holds few of the points, but holds them surely."""
    result = register_scans(table(0, 0), table(turn, 1), model="fpfh")
    truth = np.eye(4)
    truth[:3, :3] = Rotation.from_euler("z", turn, degrees=True).as_matrix()
    assert result.trusted, result.reason
    angle, _ = errors(result.motion, truth)
    assert angle < 1
    assert np.linalg.norm(result.motion[:3, 3]) < 0.01


def test_a_table_alone_is_not_trusted():
    result = register_scans(table(0, 0, thing=False), table(30, 1, thing=False), model="fpfh")
    assert not result.trusted


def test_a_network_as_the_descriptor(scans):
    network = MODELS["slim"](4, 8)  # random weights are discriminative to some degree
    steps = []
    options = RegisterOptions(keypoints=60, voxel=0.05)
    result = register_scans(
        *scans, model=network, options=options, progress=lambda *step: steps.append(step)
    )
    assert result.motion.shape == (4, 4)
    assert steps == [("describe", 60, 60)] * 2
    assert result.correspondences.shape == (len(result.inliers), 2, 3)


def test_the_network_is_asked_only_where_fpfh_is_not_trusted(scans, monkeypatch):
    asked = []
    module = sys.modules["flowmatch.registration.register"]
    monkeypatch.setattr(
        module,
        "load_descriptors",
        lambda *_, **__: ("fpfh", MODELS["slim"](4, 8)),
    )
    describe = module.describe_scan

    def spy(scan, descriptor, *rest, **more):
        asked.append(descriptor if isinstance(descriptor, str) else "network")
        return describe(scan, descriptor, *rest, **more)

    monkeypatch.setattr(module, "describe_scan", spy)
    options = RegisterOptions(keypoints=1000, voxel=0.05)
    assert register_scans(*scans, options=options).trusted
    assert asked == ["fpfh"] * 2
    asked.clear()
    options = RegisterOptions(keypoints=60, voxel=0.05)
    assert not register_scans(scans[0], balls(0), options=options).trusted
    assert asked == ["fpfh"] * 2 + ["network"] * 2


def test_an_initial_motion_is_refined_even_in_a_symmetric_room():
    """The two halves of a turn fit alike; the initial motion chooses."""
    noise = 0.005 * np.random.default_rng(4).normal(size=(2, 200_000, 3))
    first, second = (
        cloud + noise[k, : len(cloud)]
        for k, cloud in enumerate((symmetric_room(0), symmetric_room(4)))
    )
    truth = motion(1)
    start = truth.copy()
    start[:3, 3] += [0.2, -0.1, 0.1]
    moved = transform_points(truth, second)
    result = register_scans(first, moved, model="fpfh", initial=start)
    assert errors(result.motion, truth)[1] < 0.05
    for wrong in (2 * np.eye(4), np.eye(3)):
        with pytest.raises(ValueError, match="motion must be a rigid"):
            register_scans(first, moved, model="fpfh", initial=wrong)


def test_two_descriptors_that_find_the_same_motion_are_trusted_sooner(scans, monkeypatch):
    """With few keypoints, neither has enough support alone. (Here, both are FPFH.)"""
    module = sys.modules["flowmatch.registration.register"]
    options = RegisterOptions(keypoints=500, voxel=0.05)
    alone = register_scans(*scans, model="fpfh", options=options)
    assert not alone.trusted
    assert 2.5 < alone.support < 9
    monkeypatch.setattr(module, "load_descriptors", lambda *_, **__: ("fpfh", "fpfh"))
    both = register_scans(*scans, options=options)
    assert both.trusted, both.reason
    assert both.support == 2 * alone.support
    assert "another descriptor finds the same motion" in both.reason
    # Another motion supports nothing.
    wrong = alone._replace(motion=motion(7))
    register = module.register_prepared
    monkeypatch.setattr(
        module,
        "register_prepared",
        lambda *rest: register(*rest[:5], None if rest[5] is None else wrong),
    )
    assert not register_scans(*scans, options=options).trusted


def test_errors():
    cloud = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(ValueError, match="each scan needs 10 points, got 50 and 3"):
        register_scans(cloud, cloud[:3], model="fpfh")
    dense = np.random.default_rng(1).normal(size=(50, 3)) / 1000  # one voxel
    with pytest.raises(ValueError, match="the second scan needs 10 points, got . at voxels of 0.1"):
        register_scans(cloud, dense, model="fpfh", options=RegisterOptions(voxel=0.1))
    with pytest.raises(ValueError, match="no weights named 'sift' ship"):
        register_scans(cloud, cloud, model="sift")
    with pytest.raises(ValueError, match="model must be a FieldDescriptor, got Identity"):
        register_scans(cloud, cloud, model=nn.Identity())
    with pytest.raises(ValueError, match=r"target must be \[N, 3\]"):
        register_scans(cloud, cloud[:, :2], model="fpfh")
    with pytest.raises(ValueError, match="all in one place"):
        register_scans(cloud, np.zeros((50, 3)), model="fpfh")


def test_scans_in_millimetres_and_metres_are_recognised(scans):
    ratio = 1000
    hint = "differ 1000-fold: is one of them in millimetres"
    with pytest.raises(ValueError, match=f"needs 10 points, got . at voxels of .*{hint}"):
        register_scans(
            scans[0], ratio * scans[0], model="fpfh", options=RegisterOptions(voxel=3 * ratio)
        )
    with pytest.raises(ValueError, match=hint):
        register_many(
            [scans[0], ratio * scans[0]], model="fpfh", options=RegisterOptions(voxel=3 * ratio)
        )
    small = np.random.default_rng(0).uniform(size=(60, 3)) * 0.06
    options = RegisterOptions(voxel=0.01)
    result = register_scans(small, 1000 * small, model="fpfh", options=options)
    assert not result.trusted
    assert hint in result.reason
    with pytest.raises(ValueError, match=r"at voxels of 100 m$"):  # sizes are equal
        register_scans(*scans, model="fpfh", options=RegisterOptions(voxel=100))


def test_the_error_of_scans_in_millimetres_is_in_their_unit(scans):
    for unit, text in ((1, r"rmse \d+ mm;"), (1000, r"rmse \d\.\d+ in the scans' unit;")):
        options = RegisterOptions(voxel=0.05 * unit)
        result = register_scans(unit * scans[0], unit * scans[1], model="fpfh", options=options)
        assert result.trusted
        assert re.search(text, result.reason)


def test_indoor_pair(shared_data):
    folder = shared_data / "registration" / "indoor_pair"
    if not folder.is_dir():
        pytest.skip("registration/indoor_pair is missing")
    source, target = (read_cloud(folder / f"{name}.npy") for name in ("src", "ref"))
    truth = np.load(folder / "gt.npy")
    start = motion(1)
    result = register_scans(
        transform_points(start, source), target, model="fpfh", options=RegisterOptions(seed=1)
    )
    angle, distance = errors(result.motion @ start, truth)
    assert result.trusted, result.reason
    assert angle < 2
    # The recorded motion itself is a few centimetres off the best fit of the surfaces.
    assert distance < 0.12
    assert invert_motion(result.motion)[3].tolist() == [0, 0, 0, 1]
