"""Qualities of a flow: the flows that are compared, and how good the choice is."""

import numpy as np
import pytest
import torch

from flowmatch.flow import (
    FlowOptions,
    SequenceOptions,
    estimate_both_ways,
    estimate_flow,
    load,
    refine_flow,
    write_sequence,
)
from flowmatch.flow.baselines import dis_refined
from flowmatch.flow.candidates import choose_flows
from flowmatch.flow.synthetic import Sources, SyntheticFlow
from flowmatch.io import read_frames, write_image


def error(flow, sample):
    return float(np.linalg.norm(flow - sample.flow, axis=-1).mean())


@pytest.fixture(scope="module")
def network():
    return load("default", device="cpu")


@pytest.fixture(scope="module")
def samples(photo):
    """Rendered pairs of a photograph, from slow to fast."""
    factors = (0.1, 0.5, 1.5, 3.0)
    return [
        SyntheticFlow(Sources([photo], textures=range(500, 520)), (160, 208), ((f, 1.0),), seed=9)[
            i
        ]
        for i, f in enumerate(factors)
    ]


def test_good_is_as_good_as_the_better_of_both_and_best_as_good(network, samples):
    """Errors per pair, against the refined network and DIS, refined."""
    for sample in samples:
        frames = sample.first, sample.second
        fast, good, best = (
            estimate_flow(*frames, model=network, options=FlowOptions(quality))
            for quality in ("fast", "good", "best")
        )
        alone = min(error(refine_flow(*frames, fast), sample), error(dis_refined(*frames), sample))
        assert error(good, sample) <= 1.02 * alone + 0.01
        assert error(best, sample) <= 1.02 * error(good, sample)


def test_a_batch_is_a_pair_at_a_time(network, samples):
    frames = [
        torch.from_numpy(np.stack([getattr(s, name) for s in samples[:2]])).permute(0, 3, 1, 2)
        for name in ("first", "second")
    ]
    flows = estimate_flow(*frames, model=network)
    for flow, sample in zip(flows, samples, strict=False):
        alone = estimate_flow(sample.first, sample.second, model=network)
        difference = np.abs(flow.permute(1, 2, 0).numpy() - alone)
        assert np.median(difference) < 1e-3


def test_both_ways_of_the_best_quality_equal_two_calls(network, samples):
    frames = samples[1].first[:96, :128], samples[1].second[:96, :128]
    options = FlowOptions("best")
    both = estimate_both_ways(*frames, model=network, options=options)
    forward, backward = (
        estimate_flow(*pair, model=network, options=options) for pair in (frames, frames[::-1])
    )
    np.testing.assert_array_equal(both.forward, forward)
    np.testing.assert_array_equal(both.backward, backward)


class Still(torch.nn.Module):
    """Returns zero flow."""

    def forward(self, first, second):
        return [torch.zeros_like(first[:, :2])]


def test_the_flow_of_the_previous_pair_is_taken_where_it_is_confirmed(photo):
    """Only the previous flow is right; the backward flow of the network confirms it."""
    frames = [
        torch.from_numpy(np.ascontiguousarray(picture[60:156, 60:188])).permute(2, 0, 1)[None] / 255
        for picture in (photo, np.roll(photo, 6, axis=1))
    ]

    class Backward(torch.nn.Module):
        def forward(self, first, second):
            return [torch.tensor([-6.0, 0]).view(1, 2, 1, 1).expand(1, 2, *first.shape[2:])]

    options = FlowOptions("best", refine=False, with_dis=False)
    previous = np.zeros((96, 128, 2), np.float32) + np.float32([6, 0])
    networks = (Still(), Backward())
    (flow,) = choose_flows(networks, *frames, options, previous=(previous, None))
    assert (flow[0, 0, 8:-8, 8:-16] == 6).float().mean() > 0.9
    (flow,) = choose_flows(networks, *frames, options)
    assert (flow == 0).all()


def test_a_clip_of_the_best_quality_resumes_with_the_same_files(photo, tmp_path):
    clip = tmp_path / "clip"
    clip.mkdir()
    for i in range(4):
        write_image(clip / f"{i}.png", np.roll(photo, 3 * i, axis=1)[60:108, 60:124])
    options = SequenceOptions(FlowOptions("best"), weights="test", bidirectional=True)

    def interrupt(stage, done, total):
        if done == 2:
            raise KeyboardInterrupt

    model = load("pyramid", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        write_sequence(
            read_frames(clip), tmp_path / "a", model=model, options=options, progress=interrupt
        )
    for name, batch in (("a", 1), ("b", 3)):
        write_sequence(
            read_frames(clip), tmp_path / name, model=model, options=options, batch=batch
        )
    files = sorted(file.name for file in (tmp_path / "b").iterdir())
    assert len(files) == 3 * 4 + 1
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
