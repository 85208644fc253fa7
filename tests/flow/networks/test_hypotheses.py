"""Several flows for one level, and the choice among them."""

import math

import pytest
import torch
import torch.nn.functional as F

from flowmatch.flow.networks.hypotheses import FlowChoice, GlobalMatch, Hypothesis, choose_flow
from flowmatch.flow.networks.recurrent import LevelMatching


def unit(features):
    return F.normalize(features, dim=1) * features.shape[1] ** 0.5


def test_global_match_is_the_expected_place():
    """Against the definition, a softmax over all pairs of pixels in float64."""
    torch.manual_seed(0)
    unit1, unit2 = (unit(torch.randn(2, 8, 5, 7, dtype=torch.float64)) for _ in range(2))
    result = GlobalMatch()(unit1, unit2, torch.tensor(1.5, dtype=torch.float64))
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
    flow = GlobalMatch()(features, moved, torch.tensor(6.0)).flow[0, :, :8, 9:]
    expected = torch.tensor([-9.0, 4.0]).view(2, 1, 1).expand_as(flow)
    share = ((flow - expected).norm(dim=0) < 0.5).float().mean()
    assert share > (0.9 if channels == 16 else 0.2)


def test_global_match_stays_exact_under_autocast():
    torch.manual_seed(0)
    pair = [unit(torch.randn(1, 16, 12, 20)) for _ in range(2)]
    exact = GlobalMatch()(*pair, torch.tensor(3.0)).flow
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(GlobalMatch()(*pair, torch.tensor(3.0)).flow, exact)


@pytest.fixture
def score():
    torch.manual_seed(0)
    features = torch.randn(2, 16, 8, 12)
    matching = LevelMatching(features, torch.tensor(2.7), radius=1)
    module = FlowChoice(9, 4)
    return module, lambda hypotheses: module(hypotheses, matching, torch.randn(1, 4, 8, 12))


def hypothesis(u, known=None):
    flow = torch.zeros(1, 2, 8, 12)
    flow[:, 0] = u
    return Hypothesis(flow, torch.zeros(1, 1, 8, 12), known)


def test_an_untrained_choice_scores_alike(score):
    module, of = score
    scores = of([hypothesis(0.0), hypothesis(3.0)])
    assert (scores[0] != scores[1]).any()
    module.begin()
    scores = of([hypothesis(0.0), hypothesis(3.0)])
    assert torch.equal(scores[0], scores[1])


def test_unknown_flow_is_never_chosen(score):
    known = torch.zeros(1, 1, 8, 12, dtype=torch.bool)
    known[..., :4] = True
    scores = score[1]([hypothesis(0.0), hypothesis(1.0, known)])
    assert torch.equal(scores[1].isfinite(), known)
    scores = scores + torch.tensor([0.0, 99.0]).view(2, 1, 1, 1, 1)
    chosen = choose_flow([hypothesis(0.0), hypothesis(1.0, known)], scores)
    assert (chosen[:, 0, :, :4] > 0.99).all()
    assert (chosen[..., 4:] == 0).all()


def test_flows_are_blended_with_those_like_the_best_only():
    """Of 0, 0.8 and 9 pixels: the first two by their scores; the third, alone where it is best."""
    flows = [hypothesis(u) for u in (0.0, 0.8, 9.0)]
    scores = torch.zeros(3, 1, 1, 8, 12)
    scores[1] = math.log(3)
    torch.testing.assert_close(choose_flow(flows, scores)[:, 0], torch.full((1, 8, 12), 0.6))
    scores[2, ..., 5:] = 2.0
    chosen = choose_flow(flows, scores)[0, 0]
    torch.testing.assert_close(chosen[:, :5], torch.full((8, 5), 0.6))
    assert (chosen[:, 5:] == 9).all()


def test_the_choice_forms_no_flow(score):
    """Its loss must not pull flows to where it would score them well."""
    flow = torch.ones(1, 2, 8, 12, requires_grad=True)
    certain = torch.zeros(1, 1, 8, 12)
    scores = score[1]([Hypothesis(flow, certain), Hypothesis(2 * flow, certain)])
    assert scores.requires_grad
    assert torch.autograd.grad(scores.sum(), flow, allow_unused=True) == (None,)
