"""Augmentation: the flow follows the changes of the images."""

import numpy as np
import pytest
import torch

from flowmatch.flow.data.augment import Augmentation, AugmentedPairs, Mixture, ReusedPairs
from flowmatch.flow.data.datasets import find_pairs
from flowmatch.flow.synthetic.scene import FlowSample
from flowmatch.io import write_flow, write_image
from flowmatch.ops import warp

QUIET = {"jitter": 0.0, "erase": 0.0}


@pytest.fixture
def pair(photo):
    """A smooth image, moved by (4, -2.5), and its flow."""
    image = torch.from_numpy(photo[:160, :200].copy()).permute(2, 0, 1)[None] / 255
    image = torch.nn.functional.avg_pool2d(image, 9, 1, 4)
    flow = torch.tensor([4.0, -2.5]).view(1, 2, 1, 1).expand(1, 2, 160, 200)
    return image[0], warp(image, -flow)[0], flow[0].clone()


def difference(first, second, flow):
    inside = (slice(None), slice(12, -12), slice(12, -12))
    return (warp(second[None], flow[None])[0] - first)[inside].abs().mean()


@pytest.mark.parametrize("seed", range(6))
def test_flow_follows_scale_stretch_crop_and_mirror(pair, seed):
    augment = Augmentation((120, 150), scale=(-0.3, 0.8), stretch=0.3, mirror=(0.5, 0.5), **QUIET)
    first, second, flow = augment(np.random.default_rng(seed), *pair)
    assert first.shape == second.shape == (3, 120, 150)
    assert flow.shape == (2, 120, 150)
    assert difference(first, second, flow) < 0.25 * difference(first, second, 0 * flow)


def test_sparse_flow_keeps_its_values_and_gaps(pair):
    first, second, flow = pair
    flow[:, torch.rand(160, 200, generator=torch.Generator().manual_seed(0)) < 0.7] = torch.nan
    augment = Augmentation((160, 200), scale=(1.0, 1.0), stretch=0.0, mirror=(0, 0), **QUIET)
    rng = next(r for r in map(np.random.default_rng, range(9)) if r.random() < 0.8)
    rng = np.random.default_rng(0)
    assert rng.random() < 0.8  # the pair is zoomed
    _, _, zoomed = augment(np.random.default_rng(0), first, second, flow)
    known = zoomed.isfinite().all(0)
    assert known.float().mean() == pytest.approx(0.3, abs=0.03)
    torch.testing.assert_close(
        zoomed[:, known], torch.tensor([[8.0], [-5.0]]).expand(-1, int(known.sum()))
    )


def test_jitter_changes_colours_and_not_motion(pair):
    augment = Augmentation((160, 200), scale=(0, 0), stretch=0, mirror=(0, 0), erase=0)
    first, _, flow = augment(np.random.default_rng(1), *pair)
    assert torch.equal(flow, pair[2])
    assert 0.005 < (first - pair[0]).abs().mean() < 0.4
    assert 0 <= first.min() <= first.max() <= 1


def test_erased_boxes_have_the_mean_colour(pair):
    augment = Augmentation((160, 200), scale=(0, 0), stretch=0, mirror=(0, 0), jitter=0, erase=1)
    first, second, _ = augment(np.random.default_rng(2), *pair)
    assert torch.equal(first, pair[0])
    changed = (second != pair[1]).any(0)
    assert 0.01 < changed.float().mean() < 0.7
    colour = pair[1].mean((1, 2))
    torch.testing.assert_close(second[:, changed], colour[:, None].expand(-1, int(changed.sum())))


def test_small_images_are_enlarged_to_the_crop(pair):
    first, _, flow = Augmentation((320, 256), **QUIET)(np.random.default_rng(0), *pair)
    assert first.shape == (3, 320, 256)
    assert flow[0].abs().min() >= 4 * 2**-0.01


@pytest.fixture
def dataset(tmp_path, photo):
    for name, left in (("a", 0), ("b", 40)):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "frame1.png", photo[:100, left : left + 120])
        write_image(tmp_path / name / "frame2.png", photo[:100, left : left + 120])
        write_flow(tmp_path / name / "flow.flo", np.zeros((100, 120, 2)))
    return find_pairs(tmp_path)


def test_pairs_repeat_by_seed_and_differ_by_index(dataset):
    samples = AugmentedPairs(dataset, Augmentation((64, 64)), seed=4)
    first, again, second = samples[0], samples[0], samples[1]
    assert np.array_equal(first.first, again.first)
    assert not np.array_equal(first.first, second.first)
    assert first.first.dtype == np.uint8
    assert first.flow.shape == (64, 64, 2)
    assert (first.flow == 0).all()


def test_pairs_that_cannot_be_read_are_skipped_and_named(dataset):
    (dataset[1].second).write_bytes(b"")
    samples = AugmentedPairs(dataset, Augmentation((64, 64)), seed=4)
    with pytest.warns(UserWarning, match="skipped: .*frame2.png is empty"):
        items = [samples[index] for index in range(8)]
    assert all(item.first.shape == (64, 64, 3) for item in items)
    (dataset[0].second).write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none of 20 .* can be read"):
        samples[0]


def test_mixture_samples_by_weight(dataset):
    class Constant:
        def __init__(self, value):
            self.value = value

        def __len__(self):
            return 1000

        def __getitem__(self, index):
            return self.value

    mixture = Mixture([(Constant("rare"), 1.0), (Constant("often"), 3.0)])
    values = [mixture[i] for i in range(1000)]
    assert values == [mixture[i] for i in range(1000)]
    assert values.count("often") == pytest.approx(750, abs=45)


class Counted:
    """Ten pairs, whose flow is their number; records the requested items."""

    def __init__(self, photo):
        self.photo, self.made = photo[:96, :96], []

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.made.append(index)
        flow = np.full((96, 96, 2), float(index), np.float32)
        return FlowSample(self.photo, self.photo, flow, np.zeros((96, 96), bool))


def test_pairs_are_made_once_and_augmented_from_the_second_use_on(photo):
    pairs = Counted(photo)
    augment = Augmentation((96, 96), scale=(0.5, 0.5), stretch=0.0, mirror=(0, 0), **QUIET)
    reused = ReusedPairs(pairs, augment, uses=3, block=4, seed=1)
    assert len(reused) == 30
    samples = [reused[i] for i in range(24)]
    assert pairs.made == [0, 1, 2, 3, 4, 5, 6, 7]
    order = [0, 1, 2, 3] * 3 + [4, 5, 6, 7] * 3
    zooms = [float(sample.flow.max()) / max(n, 1) for sample, n in zip(samples, order, strict=True)]
    assert zooms[1:4] + zooms[12:16] == [1] * 7
    assert {round(z, 2) for z in zooms[4:12] if z} <= {1.0, 1.42}  # 136 of 96 pixels
    assert any(z > 1.4 for z in zooms)
    assert np.array_equal(samples[0].first, photo[:96, :96])
    # A process that starts in the middle returns the same.
    again = ReusedPairs(Counted(photo), augment, uses=3, block=4, seed=1)
    for index in (17, 5):
        assert np.array_equal(again[index].first, samples[index].first)


def test_uses_and_blocks_are_positive(photo):
    with pytest.raises(ValueError, match="must be positive, got 0 and 64"):
        ReusedPairs(Counted(photo), Augmentation((8, 8)), uses=0)
