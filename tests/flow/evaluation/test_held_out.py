"""Rendered pairs for evaluation: repeatable, of all motions, unlike those of training."""

import numpy as np
import pytest

from flowmatch.flow.evaluation.evaluate import evaluate
from flowmatch.flow.evaluation.held_out import MOTIONS, TEXTURES, render_held_out
from flowmatch.flow.synthetic import Sources, SyntheticFlow


def test_motions_take_turns_and_pairs_are_repeatable():
    pairs = render_held_out(6, seed=3)
    assert [pair.sequence.removeprefix("rendered/") for pair in pairs[:4]] == list(MOTIONS)
    assert pairs[4].sequence == pairs[0].sequence
    assert len({pair.name for pair in pairs}) == 6
    first, again, other = (render_held_out(1, seed)[0].load() for seed in (3, 3, 4))
    assert np.array_equal(first.first, again.first)
    assert np.array_equal(first.truth, again.truth)
    assert not np.array_equal(first.first, other.first)
    assert first.truth.shape == (*first.first.shape[:2], 2)


def test_nothing_is_shared_with_training():
    default = SyntheticFlow()
    assert not set(TEXTURES) & set(default.sources.textures)
    assert not set(MOTIONS.values()) & {factor for factor, _ in default.motion}
    assert all(pair.pairs.sources.textures == TEXTURES for pair in render_held_out(4))


def test_evaluation_renders_each_pair():
    def still(first, second):
        return np.zeros((*first.shape[:2], 2), np.float32)

    evaluation = evaluate(render_held_out(4), {"still": still})
    assert [row.name for row in evaluation.sequences] == [f"rendered/{name}" for name in MOTIONS]
    epes = [row.scores.epe for row in evaluation.sequences]
    assert 0 < epes[0] < 5
    low, high = evaluation.mean[0].epe_interval
    assert min(epes) <= low < evaluation.mean[0].scores.epe < high <= max(epes)


def test_a_count_and_a_folder_of_photographs(tmp_path):
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        render_held_out(0)
    with pytest.raises(FileNotFoundError):
        render_held_out(1, photos=tmp_path / "none")


def test_textures_are_those_of_the_seeds():
    frames = [
        SyntheticFlow(Sources(textures=seeds), (64, 64), planes=0.0)[0].first
        for seeds in (range(7, 9), range(7, 9), range(9, 11))
    ]
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])
