"""PCK by hand in both conventions, and the distance of a grid."""

import pytest
import torch

from flowmatch.align.metrics import grid_distance, pck, pck_box, pck_scnet
from flowmatch.align.transforms import AFFINE, identity

TRUTH = torch.tensor([[[0.0, 0.0], [100.0, 0.0], [100.0, 40.0], [0.0, 40.0]]])


def test_box():
    """The box is 100 wide, so the threshold is 10 pixels; three of these distances are below it."""
    moved = TRUTH + torch.tensor([[[0.0, 0], [9.9, 0], [6, 8], [0, 10.1]]])
    assert pck_box(moved, TRUTH, TRUTH).item() == 0.75
    assert pck_box(moved, TRUTH, TRUTH, alpha=0.2).item() == 1
    assert pck_box(moved, TRUTH, TRUTH / 2).item() == 0.25


def test_scnet_stretches_the_image():
    """In an image of 400 x 100, 22.4 of 224 pixels are 40 in x and 10 in y."""
    moved = TRUTH + torch.tensor([[[39.0, 0], [41, 0], [0, 9], [0, 11]]])
    assert pck_scnet(moved, TRUTH, (100, 400)).item() == 0.5


def test_unknown_points_do_not_count():
    truth = TRUTH.clone()
    truth[0, 3] = torch.nan
    moved = TRUTH + torch.tensor([[[0.0, 0], [50, 0], [0, 0], [0, 0]]])
    assert pck_box(moved, truth, truth).item() == pytest.approx(2 / 3)
    assert pck(moved, torch.full_like(truth, torch.nan), 10.0).isnan().all()


def test_lengths_for_each_pair():
    moved = torch.ones(2, 1, 2)
    assert pck(moved, torch.zeros(2, 1, 2), torch.tensor([10.0, 20.0])).tolist() == [0, 1]


def test_shapes_must_fit():
    with pytest.raises(ValueError, match=r"\[B, N, 2\]"):
        pck(torch.zeros(1, 2, 2), torch.zeros(1, 3, 2), 1.0)


def test_distance_of_a_known_shift():
    shifted = identity(AFFINE, 2)
    shifted[1, 2], shifted[1, 5] = 0.3, 0.4
    assert grid_distance(shifted, identity(AFFINE, 2)).tolist() == pytest.approx([0, 0.5])
