"""Effects by torch: each alone against OpenCV's, and in batches of different effects."""

import numpy as np
import pytest
import torch

from flowmatch.flow.synthetic.effects import (
    Fog,
    Shade,
    apply_effects,
    sample_effects,
    sample_octaves,
)
from flowmatch.flow.synthetic.effects_torch import apply_effects_to_batch, apply_flips
from flowmatch.flow.synthetic.plan import Flip, apply_flip
from flowmatch.flow.synthetic.scene import FlowSample

RNG = np.random.default_rng(0)
FOG = Fog(sample_octaves(RNG), 0.5, np.array([200, 210, 220], np.float32), 5)
SHADE = Shade(0.4, sample_octaves(RNG), sample_octaves(RNG))
SINGLE = {
    "fog": FOG,
    "shade": SHADE,
    "defocus": (1.2, 0.8),
    "film": sample_effects(RNG, (64, 96)).film,
}


@pytest.fixture
def frames(photo):
    """Two crops of the photograph, a few pixels apart, [64, 96, 3] each."""
    return [photo[k : k + 64, k : k + 96].astype(np.float32) for k in (0, 3)]


def as_batch(frames, device="cpu"):
    stacked = np.stack(frames).transpose(0, 3, 1, 2)
    return torch.from_numpy(stacked)[None].to(device)  # [1, 2, 3, H, W]


def as_arrays(batch):
    return batch[0].permute(0, 2, 3, 1).cpu().numpy().astype(int)


@pytest.mark.parametrize("name", SINGLE)
def test_equals_opencv(frames, only, name, device):
    """The differences are of rounding, and far smaller than the effects."""
    effects = only(**{name: SINGLE[name]})
    result = as_arrays(apply_effects_to_batch(as_batch(frames, device), [effects]))
    for a, b, original in zip(result, apply_effects(effects, *frames), frames, strict=True):
        assert np.abs(a - b).max() <= 1
        assert np.abs(a - b).mean() < 0.02
        assert np.abs(a - original).mean() > 1


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_compression_is_close_to_opencv_s(frames, only, quality, device):
    effects = only(quality=quality)
    result = as_arrays(apply_effects_to_batch(as_batch(frames, device), [effects]))
    for a, b, original in zip(result, apply_effects(effects, *frames), frames, strict=True):
        assert np.abs(a - b).mean() < 0.6 * np.abs(b - original).mean()


def test_no_effects_change_nothing(frames, only, device):
    batch = as_batch(frames, device)
    assert torch.equal(apply_effects_to_batch(batch, [only()]).float(), batch)


def test_noise_repeats_by_seed(frames, only, device):
    gray = torch.full((2, 2, 3, 64, 96), 128.0, device=device)
    stored = apply_effects_to_batch(gray, [only(sigma=5.0), only()]).float()
    noise = (stored[0] - 128).flatten(1)
    assert noise.std(1).tolist() == pytest.approx([5, 5], rel=0.05)
    assert torch.corrcoef(noise)[0, 1].abs() < 0.03  # a seed for each frame
    assert (stored[1] == 128).all()
    again = apply_effects_to_batch(gray.flip(0), [only(), only(sigma=5.0)]).float()
    assert torch.equal(again[1], stored[0])


def test_each_pair_of_a_batch_has_its_own_effects(frames, only):
    effects = [only(**{name: SINGLE[name]}) for name in SINGLE]
    effects += [only(quality=40), only(), only(quality=80)]
    batch = as_batch(frames)
    together = apply_effects_to_batch(batch.expand(len(effects), -1, -1, -1, -1), effects)
    for effect, result in zip(effects, together, strict=True):
        assert torch.equal(result, apply_effects_to_batch(batch, [effect])[0])


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("down", [False, True])
def test_flips_like_numpy(frames, across, down):
    flip = Flip(across, down, (2, 0, 1))
    sample = FlowSample(*frames, np.zeros((64, 96, 2), np.float32), np.zeros((64, 96), bool))
    result = apply_flips(as_batch(frames), [flip])
    expected = apply_flip(flip, sample)
    assert np.array_equal(as_arrays(result), np.stack(expected[:2]).astype(int))
