"""Initial flows of training pairs."""

from types import SimpleNamespace

import numpy as np
import torch

from flowmatch.flow.networks import RecurrentPyramid
from flowmatch.flow.training.initial_flows import SHARES, WithInitialFlows, sample_initial_flow


class Pairs:
    """Pairs of noise that moves by (5, -2) pixels."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        first = rng.integers(0, 256, (64, 96, 3), np.uint8)
        flow = np.full((64, 96, 2), (5, -2), np.float32)
        return SimpleNamespace(first=first, second=np.roll(first, (-2, 5), (0, 1)), flow=flow)


def test_each_item_is_the_same_every_time():
    samples = WithInitialFlows(Pairs(), RecurrentPyramid.to_grid, seed=1)
    assert len(samples) == 8
    again = WithInitialFlows(Pairs(), RecurrentPyramid.to_grid, seed=1)
    for i in range(8):
        assert samples[i].initial.shape == (2, 16, 24)
        assert torch.equal(samples[i].initial.nan_to_num(99), again[i].initial.nan_to_num(99))


def test_kinds_have_their_shares_and_errors():
    rng, pair = np.random.default_rng(0), Pairs()[0]
    flows = [sample_initial_flow(rng, pair) for _ in range(300)]
    unknown = [bool(np.isnan(flow).all()) for flow in flows]
    assert abs(np.mean(unknown) - SHARES["none"]) < 0.1
    errors = [np.nanmean(np.linalg.norm(f - pair.flow, axis=-1)) for f in flows
              if not np.isnan(f).all()]  # fmt: skip
    near = np.mean(np.array(errors) < 4)
    assert 0.6 < near < 0.9  # DIS and what is nearly right, of all that is known
    assert max(errors) > 10
    assert any(np.isnan(flow).any() and not np.isnan(flow).all() for flow in flows)  # gaps
