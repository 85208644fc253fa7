"""Synthetic pairs: repeatable, with true flow, and made from the given sources."""

import numpy as np
import pytest

from flowmatch.flow.synthetic import pairs as synthetic
from flowmatch.flow.synthetic.pairs import SyntheticFlow, sample_flat_scene
from flowmatch.flow.synthetic.sources import Sources


@pytest.fixture(scope="module")
def sources(photo):
    cutout = np.zeros((60, 80, 4), np.uint8)
    cutout[10:50, 10:70] = (200, 30, 30, 255)
    return Sources([photo], [cutout], procedural=0.0)


def test_repeats_by_seed(sources):
    first, again = (SyntheticFlow(sources, (64, 96), seed=3)[5] for _ in range(2))
    for a, b in zip(first[:4], again[:4], strict=True):
        assert np.array_equal(a, b)
    reseeded = SyntheticFlow(sources, (64, 96), seed=4)[5]
    assert not np.array_equal(first.first, reseeded.first)


def test_items_keep_their_values():
    """Weights depend on the random numbers and their order: procedural items keep their values."""
    pairs = SyntheticFlow(size=(64, 96), seed=7)
    statistics = [
        [sample.first.mean(), sample.second.mean(), np.abs(sample.flow).mean(),
         100 * sample.occluded.mean()]
        for sample in (pairs[i] for i in (0, 1, 3, 5))
    ]  # fmt: skip
    expected = [
        [128.0249, 129.9839, 11.8602, 36.3118],
        [110.2723, 112.0142, 0.6928, 0.9766],
        [93.1568, 129.3460, 10.6968, 29.8014],
        [83.0862, 83.9608, 3.9058, 6.3639],
    ]
    np.testing.assert_allclose(statistics, expected, rtol=1e-3, atol=0.05)


def test_shapes_and_types():
    sample = SyntheticFlow(size=(48, 80))[0]
    assert [(part.shape, str(part.dtype)) for part in sample[:4]] == [
        ((48, 80, 3), "uint8"),
        ((48, 80, 3), "uint8"),
        ((48, 80, 2), "float32"),
        ((48, 80), "bool"),
    ]


def test_flow_explains_the_second_frame(sources, fetch_back):
    """On average, warping removes most of the difference between the frames."""
    rng, before, after = np.random.default_rng(0), 0.0, 0.0
    for _ in range(6):
        scene = sample_flat_scene(rng, sources, (96, 128))
        first, second = scene.render(0), scene.render(1)
        flow, hidden = scene.flow(first, 0, 1, second)
        back = fetch_back(second.image, flow)
        before += np.abs(second.image - first.image)[~hidden].mean()
        after += np.abs(back - first.image)[~hidden].mean()
    assert after < 0.35 * before


def test_motion_factors_scale_the_motion(sources):
    def mean_length(factor):
        pairs = SyntheticFlow(sources, (64, 64), motion=((factor, 1.0),))
        return np.mean([np.hypot(*np.moveaxis(pairs[i].flow, -1, 0)).mean() for i in range(12)])

    slow, fast = mean_length(0.25), mean_length(2.5)
    assert 0.3 < slow < 5
    assert fast > 4 * slow


def test_index_is_bounded():
    with pytest.raises(IndexError, match="below 3, got 3"):
        SyntheticFlow(length=3)[3]


def test_backward_flow_is_the_inverse(sources):
    """Forward and backward flow cancel where neither is occluded."""
    pairs = SyntheticFlow(sources, (96, 128), motion=((1.0, 1.0),), backward=True)
    errors = []
    for sample in (pairs[i] for i in range(6)):
        y, x = np.mgrid[0:96, 0:128]
        x2 = np.rint(x + sample.flow[..., 0]).astype(int).clip(0, 127)
        y2 = np.rint(y + sample.flow[..., 1]).astype(int).clip(0, 95)
        visible = ~sample.occluded & ~sample.occluded_backward[y2, x2]
        error = np.linalg.norm(sample.flow + sample.backward[y2, x2], axis=-1)[visible]
        errors.append(np.median(error))
        assert visible.mean() > 0.2
    assert np.mean(errors) < 0.3


def test_no_backward_flow_unless_asked_for(sources):
    assert SyntheticFlow(sources, (32, 32))[0].backward is None


@pytest.mark.parametrize("planes", [0.0, 1.0])
def test_share_of_planes(sources, planes, monkeypatch):
    kinds = []
    for name in ("sample_flat_scene", "sample_box_scene"):
        sample = getattr(synthetic, name)
        monkeypatch.setattr(
            synthetic,
            name,
            lambda *a, sample=sample, name=name: (kinds.append(name), sample(*a))[1],
        )
    pairs = SyntheticFlow(sources, (48, 48), planes=planes)
    for index in range(8):
        pairs[index]
    assert set(kinds) == {"sample_box_scene" if planes else "sample_flat_scene"}


def test_motion_factor_zero_stands_still(sources):
    """Translations, rotations and zooms are all zero."""
    pairs = SyntheticFlow(sources, (48, 64), motion=((0.0, 1.0),))
    assert max(np.abs(pairs[i].flow).max() for i in range(12)) < 1e-3
