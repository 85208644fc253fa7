"""Flows of several methods with their errors."""

import numpy as np
import pytest

from flowmatch.flow.synthetic import Sources, SyntheticFlow
from flowmatch.flow.training.judged_flows import KINDS, JudgedFlows, perturb


def samples(photo, block=2):
    pairs = SyntheticFlow(
        Sources([photo], textures=range(3)), (64, 96), ((0.5, 1.0),), backward=True, seed=3
    )
    return JudgedFlows(pairs, block=block)


def test_every_pair_is_used_with_every_flow_both_ways_and_repeats(photo):
    judged = samples(photo)
    items = [judged[i] for i in range(2 * 2 * len(KINDS))]
    pairs = [judged.compute(k) for k in range(2)]
    flows = {flow.tobytes() for pair in pairs for both in pair.flows for flow in both}
    assert {item.forward.tobytes() for item in items} == flows
    assert len(flows) == len(items)
    for item in items:
        frames = (item.first, item.second)
        pair = next(p for p in pairs if any(np.array_equal(item.first, f) for f in p.frames))
        way = int(np.array_equal(item.first, pair.frames[1]))
        np.testing.assert_array_equal(frames, pair.frames[:: 1 - 2 * way])
        error = np.linalg.norm(item.forward - pair.truth[way], axis=-1)
        np.testing.assert_allclose(item.error, error, rtol=1e-5)
    again = samples(photo)[5]
    for a, b in zip(items[5], again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_refined_flows_are_better_and_networks_differ_from_dis(photo):
    pair = samples(photo).compute(0)
    errors = {
        kind: np.linalg.norm(flow[0] - pair.truth[0], axis=-1).mean()
        for kind, flow in zip(KINDS, pair.flows, strict=True)
    }
    assert errors["network refined"] < errors["network"]
    assert errors["perturbed"] > 0
    better = min(errors["network refined"], errors["dis refined"])
    assert errors["chosen"] < 1.1 * better
    mixed = pair.flows[KINDS.index("mixed")][0]
    parts = [np.all(mixed == flow[0], axis=-1) for flow in pair.flows[:4]]
    assert np.any(parts, axis=0).all()
    assert sum(part.any() for part in parts) >= 2


def test_perturbations_are_of_all_sizes():
    flow = np.zeros((64, 96, 2), np.float32)
    changes = [
        np.abs(perturb(np.random.default_rng(seed), flow)).mean(axis=-1) for seed in range(30)
    ]
    means = [change.mean() for change in changes]
    assert min(means) < 0.2 < 2 < max(means)
    assert np.mean([np.mean(change == 0) for change in changes]) > 0.1  # regions stay right


def test_only_the_kinds_that_are_asked_for_are_used(photo):
    judged = samples(photo)
    judged.kinds = ("network", "chosen")
    assert len(judged) == 2 * 2 * judged.count
    pairs = [judged.compute(k) for k in range(2)]
    wanted = {f.tobytes() for p in pairs for k in (0, KINDS.index("chosen")) for f in p.flows[k]}
    assert {judged[i].forward.tobytes() for i in range(8)} == wanted


def test_pairs_need_backward_flow():
    with pytest.raises(ValueError, match="need pairs with backward flow"):
        JudgedFlows(SyntheticFlow())
