"""RecurrentPyramid: its matching and its checks."""

import pytest
import torch

from flowmatch.flow.networks.recurrent import LevelMatching, RecurrentPyramid


def test_initial_flow_of_a_pass_is_the_motion_of_the_features():
    """Random features move by (2, -3) pixels, which the untrained matching finds."""
    f1 = torch.randn(1, 32, 20, 24)
    f2 = torch.roll(f1, shifts=(-3, 2), dims=(2, 3))
    matching = LevelMatching(torch.cat([f1, f2]), torch.tensor(2.7), radius=4)
    initial, similarity, displacements = matching(torch.zeros(1, 2, 20, 24))
    inside = (0, slice(None), slice(4, 16), slice(4, 20))
    expected = torch.tensor([2.0, -3.0]).view(2, 1, 1).expand(2, 12, 16)
    torch.testing.assert_close(initial[inside], expected, rtol=0, atol=0.1)
    assert (similarity[inside].argmax(0) == 9 * (4 - 3) + 4 + 2).all()  # row dy = -3, column dx = 2
    assert torch.equal(displacements, torch.cat([initial / 8, initial], dim=1))


def test_untrained_decoders_correct_nothing():
    flows = RecurrentPyramid()(*torch.rand(2, 1, 3, 64, 64))[1:]
    for corrected, initial in zip(flows[::2], flows[1::2], strict=True):
        assert torch.equal(corrected, initial)


@pytest.mark.parametrize("wrong", [{"channels": (8,)}, {"passes": (1, 1)}, {"radius": 0}], ids=str)
def test_refuses_wrong_arguments(wrong):
    with pytest.raises(ValueError, match="two levels, a pass for each but the finest"):
        RecurrentPyramid(**wrong)
