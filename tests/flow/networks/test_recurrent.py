"""RecurrentPyramid: its matching and its checks."""

import pytest
import torch

from flowmatch.flow.networks.recurrent import RecurrentPyramid, _Matching


def test_first_guess_of_a_pass_finds_where_features_went():
    """Random features that move by (2, -3) pixels: the guess is that, with nothing trained."""
    f1 = torch.randn(1, 32, 20, 24)
    f2 = torch.roll(f1, shifts=(-3, 2), dims=(2, 3))
    matching = _Matching(torch.cat([f1, f2]), torch.tensor(2.7), radius=4)
    guess, similar, moved = matching(torch.zeros(1, 2, 20, 24))
    inside = (0, slice(None), slice(4, 16), slice(4, 20))
    expected = torch.tensor([2.0, -3.0]).view(2, 1, 1).expand(2, 12, 16)
    torch.testing.assert_close(guess[inside], expected, rtol=0, atol=0.1)
    assert (similar[inside].argmax(0) == 9 * (4 - 3) + 4 + 2).all()  # row dy = -3, column dx = 2
    assert torch.equal(moved, torch.cat([guess / 8, guess], dim=1))


def test_decoders_start_by_correcting_nothing():
    flows = RecurrentPyramid()(*torch.rand(2, 1, 3, 64, 64))[1:]
    for corrected, guess in zip(flows[::2], flows[1::2], strict=True):
        assert torch.equal(corrected, guess)


@pytest.mark.parametrize("wrong", [{"channels": (8,)}, {"passes": (1, 1)}, {"radius": 0}], ids=str)
def test_pyramid_refuses_what_is_no_pyramid(wrong):
    with pytest.raises(ValueError, match="two levels, a pass for each but the finest"):
        RecurrentPyramid(**wrong)
