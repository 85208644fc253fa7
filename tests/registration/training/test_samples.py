"""Training samples of descriptors."""

import pickle

import numpy as np
import pytest
import torch

from flowmatch.geometry import invert_motion, transform_points
from flowmatch.registration.describe import field_patches
from flowmatch.registration.keypoints import voxel_down
from flowmatch.registration.synthetic.pairs import ScanPair, Sensor, SyntheticScans
from flowmatch.registration.training.samples import FieldPairs, collate, shared_points
from tests.registration.scenes import motion, room

SMALL = Sensor(size=(48, 64))


class RotatedRooms:
    """Rooms and the same points after a rigid motion: every field has an exact match."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        points = room(index, density=3000)
        truth = motion(index)
        return ScanPair(points, transform_points(truth, points), truth)


def test_shared_points_lie_on_both_scans():
    pair = SyntheticScans(0, SMALL)[0]
    first, second = shared_points(pair, 40, 0.02, 0.1, np.random.default_rng(0), max_offset=0.2)
    assert first.shape == second.shape == (40, 3)
    assert (np.linalg.norm(transform_points(pair.motion, first) - second, axis=1) < 0.04).all()
    repeated = shared_points(pair, 40, 0.02, 0.1, np.random.default_rng(0), max_offset=0.2)
    assert np.array_equal(first, repeated[0])


def test_scans_without_shared_points():
    pair = ScanPair(np.zeros((1, 3)), np.full((1, 3), 9.0), np.eye(4))
    with pytest.raises(ValueError, match="share no points"):
        shared_points(pair, 2, 0.01, 0.05, np.random.default_rng(0))
    with pytest.raises(ValueError, match="empty"):
        empty = pair._replace(target=np.zeros((0, 3)))
        shared_points(empty, 2, 0.01, 0.05, np.random.default_rng(0))


def test_fields_equal_those_of_field_patches():
    scans = SyntheticScans(1, SMALL)
    pairs = FieldPairs([scans], 4, frames=True, voxel=(0.02, 0.02))
    item = pairs[0]
    assert item.fields.shape == (2, 4, 1, 30, 30, 30) and item.fields.dtype == torch.float32
    target = item.positions.double().numpy() / 0.01 * 0.02
    cloud = voxel_down(scans[0].target, 0.02)
    expected = field_patches(cloud, target, voxel=0.02, frames=True, sides=-target)
    # Float32 positions move the grid by less than a thousandth of a voxel.
    torch.testing.assert_close(item.fields[1, :, 0], expected, atol=1e-2, rtol=0)


def test_fields_of_the_same_points_are_similar_in_local_frames():
    pairs = FieldPairs([RotatedRooms()], 12, frames=True, voxel=(0.03, 0.03), max_offset=0.0)
    first, second = pairs[0].fields
    same = (first - second).abs().mean((1, 2, 3, 4)).median()
    other = (first - second.roll(5, 0)).abs().mean((1, 2, 3, 4)).median()
    assert same < 0.6 * other
    pair = RotatedRooms()[0]
    assert np.allclose(transform_points(invert_motion(pair.motion), pair.target), pair.source)


def test_items_repeat_in_any_process_and_share_scans():
    pairs = FieldPairs([SyntheticScans(2, SMALL)], 3, voxel=(0.02, 0.03), reuse=2)
    first = pairs[1].fields
    assert torch.equal(first, pickle.loads(pickle.dumps(pairs))[1].fields)
    assert not torch.equal(first, pairs[0].fields)
    with pytest.raises(IndexError, match="below"):
        pairs[len(pairs)]
    with pytest.raises(ValueError, match="positive count"):
        FieldPairs([], 3)


def test_scenes_of_a_batch_are_far_from_each_other():
    pairs = FieldPairs([SyntheticScans(0, SMALL)], 3, voxel=(0.03, 0.03))
    fields, positions = collate([pairs[0], pairs[1]])
    assert fields.shape == (2, 6, 1, 30, 30, 30)
    assert torch.cdist(positions[:3], positions[3:]).min() > 100
