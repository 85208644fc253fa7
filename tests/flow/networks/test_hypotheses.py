"""Several flows for one level, and the choice among them."""

import pytest
import torch
import torch.nn.functional as F

from flowmatch.flow.networks.hypotheses import FlowChoice, Hypothesis, match_globally
from flowmatch.flow.networks.recurrent import LevelMatching


def unit(features):
    return F.normalize(features, dim=1) * features.shape[1] ** 0.5


def test_global_match_is_the_expected_place():
    """Against the definition, a softmax over all pairs of pixels in float64."""
    torch.manual_seed(0)
    unit1, unit2 = (unit(torch.randn(2, 8, 5, 7, dtype=torch.float64)) for _ in range(2))
    result = match_globally(unit1, unit2, torch.tensor(1.5, dtype=torch.float64))
    volume = torch.einsum("bchw,bcyx->bhwyx", unit1, unit2) / 8 * torch.tensor(1.5).double().exp()
    probability = volume.flatten(3).softmax(-1).view_as(volume)
    rows, columns = torch.arange(5.0).double(), torch.arange(7.0).double()
    x = torch.einsum("bhwyx,x->bhw", probability, columns)
    y = torch.einsum("bhwyx,y->bhw", probability, rows)
    torch.testing.assert_close(result.flow[:, 0], x - columns)
    torch.testing.assert_close(result.flow[:, 1], y - rows[:, None])
    square = (rows[:, None] - y[..., None, None]) ** 2 + (columns - x[..., None, None]) ** 2
    variance = (probability * square).sum(dim=(-1, -2))
    torch.testing.assert_close(result.spread[:, 0], variance.sqrt() / 8)


@pytest.mark.parametrize("channels", [3, 16])
def test_global_match_finds_any_displacement(channels):
    torch.manual_seed(0)
    features = unit(torch.randn(1, channels, 12, 20))
    moved = torch.roll(features, (4, -9), dims=(2, 3))
    flow = match_globally(features, moved, torch.tensor(6.0)).flow[0, :, :8, 9:]
    expected = torch.tensor([-9.0, 4.0]).view(2, 1, 1).expand_as(flow)
    share = ((flow - expected).norm(dim=0) < 0.5).float().mean()
    assert share > (0.9 if channels == 16 else 0.2)


def test_global_match_stays_exact_under_autocast():
    torch.manual_seed(0)
    pair = [unit(torch.randn(1, 16, 12, 20)) for _ in range(2)]
    exact = match_globally(*pair, torch.tensor(3.0)).flow
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(match_globally(*pair, torch.tensor(3.0)).flow, exact)


@pytest.fixture
def choice():
    torch.manual_seed(0)
    features = torch.randn(2, 16, 8, 12)
    matching = LevelMatching(features, torch.tensor(2.7), radius=1)
    module = FlowChoice(9, 4, 2)
    module.begin()
    return lambda hypotheses: module(hypotheses, matching, torch.randn(1, 4, 8, 12))


def test_an_untrained_choice_is_nearly_the_first(choice):
    none, certain = torch.zeros(1, 2, 8, 12), torch.zeros(1, 1, 8, 12)
    blend = choice([Hypothesis(none, certain), Hypothesis(none + 1, certain)])
    torch.testing.assert_close(blend, torch.full_like(blend, 1 / (1 + torch.tensor(4.0).exp())))


def test_unknown_flow_has_no_weight(choice):
    none, certain = torch.zeros(1, 2, 8, 12), torch.zeros(1, 1, 8, 12)
    known = torch.zeros(1, 1, 8, 12, dtype=torch.bool)
    known[..., :4] = True
    blend = choice([Hypothesis(none, certain), Hypothesis(none + 1, certain, known)])
    assert (blend[..., 4:] == 0).all()
    assert (blend[..., :4] > 0).all()
