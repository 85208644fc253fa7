from dataclasses import replace

import numpy as np
import pytest
import torch

from flowmatch.selfsupervised.patches import TrackedPatches
from flowmatch.selfsupervised.recipes import RECIPES, VideoRecipe
from flowmatch.selfsupervised.tracks import find_tracks
from flowmatch.selfsupervised.train import TrackPairs, collate, train_video
from flowmatch.training import Schedule

TINY = VideoRecipe(Schedule(steps=6, batch=4), dimension=4, size=16, seed=2)


@pytest.fixture(scope="module")
def patches(moving):
    frames, flow, _ = moving
    return TrackedPatches.from_tracks([find_tracks(frames, flow, size=20)])


def test_pairs_are_of_one_track_and_apart(patches):
    pairs = TrackPairs(patches, replace(TINY, size=20))
    seen = set()
    for index in range(24):
        pair = pairs[index]
        assert pair.first.shape == pair.second.shape == (20, 20, 3)
        assert pair.hard == (index // 4 >= 2)  # 0.4 of 6 steps
        middles = [int(view[10, 10, 0]) > 120 for view in (pair.first, pair.second)]
        assert (
            middles[0]
            == middles[1]
            == (patches.patches[patches.track == pair.track][0][10, 10, 0] > 150)
        )
        seen.add(pair.track)
        assert np.array_equal(pair.first, pairs[index].first)
    assert seen == {0, 1}
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = pairs.sample_pair(rng, 1)
        assert patches.track[first] == patches.track[second] == 1
        assert abs(patches.frame[first] - patches.frame[second]) >= 10
    first, second, track, hard = collate([pairs[i] for i in range(4)])
    assert first.shape == second.shape == (4, 3, 20, 20) and first.dtype == torch.uint8
    assert track.shape == (4,) and not hard


def test_unsuitable_patches_are_refused(patches):
    with pytest.raises(ValueError, match="must have 21 pixels to a side, got 20"):
        TrackPairs(patches, replace(TINY, size=21))
    first_track = patches.track == 0
    alone = TrackedPatches(
        *(
            getattr(patches, name)[first_track]
            for name in ("patches", "track", "clip", "frame", "box")
        )
    )
    with pytest.raises(ValueError, match="two objects that certainly differ"):
        TrackPairs(alone, TINY)
    with pytest.raises(ValueError, match="backbone must be one of small, tiny, resnet18"):
        replace(TINY, backbone="vgg")
    with pytest.raises(ValueError, match="out of range"):
        replace(TINY, gap=0)
    assert all(isinstance(recipe, VideoRecipe) for recipe in RECIPES.values())


def test_a_resumed_run_ends_with_the_same_bits(patches, tmp_path):
    whole = train_video(TINY, patches, tmp_path / "a.pt", precision="float32")

    def stop(report):
        if report.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_video(TINY, patches, tmp_path / "b.pt", precision="float32", every=2, on_step=stop)
    steps = []
    resumed = train_video(
        TINY,
        patches,
        tmp_path / "b.pt",
        precision="float32",
        resume=True,
        on_step=lambda report: steps.append(report.step),
    )
    assert steps == [6]
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="belongs to another run"):
        train_video(replace(TINY, margin=0.4), patches, tmp_path / "b.pt", resume=True)
