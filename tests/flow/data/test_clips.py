"""Neighbouring frames of a clip, as samples without true flow."""

import numpy as np
import pytest

from flowmatch.flow.data import clips
from flowmatch.flow.data.clips import ClipPairs
from flowmatch.io import write_image


def write_clip(folder, count, size=(72, 96)):
    folder.mkdir()
    for t in range(count):
        write_image(folder / f"{t:03d}.png", np.full((*size, 3), t, np.uint8))


def test_pairs_are_neighbours_and_repeat(tmp_path):
    write_clip(tmp_path / "clip", 5)
    samples = ClipPairs.from_video(tmp_path / "clip", (64, 80), seed=1)
    assert len(samples.pairs) == 4
    pairs = set()
    for index in range(60):
        sample = samples[index]
        assert sample.first.shape == sample.second.shape == (64, 80, 3)
        assert np.isnan(sample.flow).all()
        a, b = int(sample.first[0, 0, 0]), int(sample.second[0, 0, 0])
        assert abs(a - b) == 1
        pairs.add((a, b))
    assert len(pairs) == 8  # each pair in both directions
    assert np.array_equal(samples[7].first, samples[7].first)


@pytest.mark.parametrize(("bound", "limit"), [("MAX_PAIRS", 8), ("MAX_BYTES", 8 * 2 * 72 * 96 * 3)])
def test_long_clips_are_thinned(bound, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, bound, limit)
    write_clip(tmp_path / "clip", 60)
    pairs = ClipPairs.from_video(tmp_path / "clip", (64, 64)).pairs
    starts = [int(first[0, 0, 0]) for first, _ in pairs]
    assert len(pairs) <= 8
    assert all(int(b[0, 0, 0]) - int(a[0, 0, 0]) == 1 for a, b in pairs)
    assert len(set(np.diff(starts))) == 1  # evenly spread
    assert starts[-1] - starts[0] > 40


def test_a_clip_needs_two_frames(tmp_path):
    write_clip(tmp_path / "clip", 1)
    with pytest.raises(ValueError, match="holds no two consecutive frames"):
        ClipPairs.from_video(tmp_path / "clip", (64, 64))


def test_a_clip_may_be_too_small(tmp_path):
    write_clip(tmp_path / "clip", 2, size=(40, 96))
    with pytest.raises(ValueError, match=r"64 pixels to a side, got \(40, 64\)"):
        ClipPairs.from_video(tmp_path / "clip", (64, 64))
