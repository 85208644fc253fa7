"""Plans of synthetic pairs, and their mirroring."""

import pickle

import numpy as np
import pytest

from flowmatch.flow.synthetic.pairs import SyntheticFlow
from flowmatch.flow.synthetic.plan import apply_flip, render_pair, sample_flip
from flowmatch.flow.synthetic.scene import FlowSample
from flowmatch.flow.synthetic.sources import Sources


@pytest.fixture(scope="module")
def sources(photo):
    cutout = np.zeros((60, 80, 4), np.uint8)
    cutout[10:50, 10:70] = (200, 30, 30, 255)
    return Sources([photo], [cutout], procedural=0.0)


def test_an_item_is_its_plan_rendered(sources):
    pairs = SyntheticFlow(sources, (64, 96), seed=3)
    plan = pickle.loads(pickle.dumps(pairs.plan(5)))
    for a, b in zip(pairs[5][:4], render_pair(plan)[:4], strict=True):
        assert np.array_equal(a, b)


def test_flip_keeps_flow_true():
    """A point at (x, y) with flow (u, v) is at the mirrored place, with mirrored flow."""
    rng = np.random.default_rng(0)
    flow = rng.normal(size=(4, 6, 2)).astype(np.float32)
    first = rng.integers(0, 256, (4, 6, 3), np.uint8)
    kinds = set()
    for _ in range(40):
        _, _, flipped, *_ = apply_flip(
            sample_flip(rng), FlowSample(first, first, flow, np.zeros((4, 6), bool))
        )
        for name, expected in {
            "unchanged": flow,
            "left-right": flow[:, ::-1] * [-1, 1],
            "top-bottom": flow[::-1] * [1, -1],
            "both": flow[::-1, ::-1] * [-1, -1],
        }.items():
            if np.allclose(flipped, expected):
                kinds.add(name)
    assert kinds == {"unchanged", "left-right", "top-bottom", "both"}
