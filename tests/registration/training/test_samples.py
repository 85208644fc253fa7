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


class Twice:
    """A room, and the same points turned: every field has its equal."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        points = room(index, density=3000)
        turn = motion(index)
        return ScanPair(points, transform_points(turn, points), turn)


def test_points_are_where_both_scans_have_them():
    pair = SyntheticScans(0, SMALL)[0]
    first, second = shared_points(pair, 40, 0.02, 0.1, np.random.default_rng(0), max_offset=0.2)
    assert first.shape == second.shape == (40, 3)
    assert (np.linalg.norm(transform_points(pair.motion, first) - second, axis=1) < 0.04).all()
    again = shared_points(pair, 40, 0.02, 0.1, np.random.default_rng(0), max_offset=0.2)
    assert np.array_equal(first, again[0])


def test_scans_that_share_nothing():
    pair = ScanPair(np.zeros((1, 3)), np.full((1, 3), 9.0), np.eye(4))
    with pytest.raises(ValueError, match="share no points"):
        shared_points(pair, 2, 0.01, 0.05, np.random.default_rng(0))
    with pytest.raises(ValueError, match="empty"):
        empty = pair._replace(target=np.zeros((0, 3)))
        shared_points(empty, 2, 0.01, 0.05, np.random.default_rng(0))


def test_fields_are_those_that_describe_measures():
    scans = SyntheticScans(1, SMALL)
    pairs = FieldPairs([scans], 4, frames=True, voxel=(0.02, 0.02))
    item = pairs[0]
    assert item.fields.shape == (2, 4, 1, 30, 30, 30) and item.fields.dtype == torch.float32
    target = item.positions.double().numpy() / 0.01 * 0.02
    cloud = voxel_down(scans[0].target, 0.02)
    again = field_patches(cloud, target, voxel=0.02, frames=True, sides=-target)
    # Float32 positions move the grid by less than a thousandth of a voxel.
    torch.testing.assert_close(item.fields[1, :, 0], again, atol=1e-2, rtol=0)


def test_fields_of_the_same_points_are_alike_in_their_own_frames():
    pairs = FieldPairs([Twice()], 12, frames=True, voxel=(0.03, 0.03), max_offset=0.0)
    first, second = pairs[0].fields
    same = (first - second).abs().mean((1, 2, 3, 4)).median()
    other = (first - second.roll(5, 0)).abs().mean((1, 2, 3, 4)).median()
    assert same < 0.6 * other
    pair = Twice()[0]
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


def test_a_batch_keeps_scenes_apart():
    pairs = FieldPairs([SyntheticScans(0, SMALL)], 3, voxel=(0.03, 0.03))
    fields, positions = collate([pairs[0], pairs[1]])
    assert fields.shape == (2, 6, 1, 30, 30, 30)
    assert torch.cdist(positions[:3], positions[3:]).min() > 100
