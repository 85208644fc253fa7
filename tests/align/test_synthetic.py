"""Pairs: the truth lays the second on the first, items repeat, ranges hold."""

import numpy as np
import pytest
import torch

from flowmatch.align.appearance import restyle
from flowmatch.align.synthetic import (
    Ranges,
    SyntheticPairs,
    random_affine,
    random_thin_plate,
)
from flowmatch.align.transforms import control_points, pixel_grid, transform_points, warp_image
from flowmatch.io import list_images, write_image


def stages(sample):
    return [torch.from_numpy(theta)[None] for theta in (sample.affine, sample.thin_plate)]


@pytest.mark.parametrize("parts", [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_the_truth_lays_the_second_on_the_first(photo, parts):
    samples = SyntheticPairs([photo], 96, affine=parts[0], thin_plate=parts[1])
    for index in range(3):
        sample = samples[index]
        second = torch.from_numpy(sample.second).permute(2, 0, 1)[None].float()
        laid = warp_image(stages(sample), second)[0].permute(1, 2, 0).numpy()
        inside = transform_points(stages(sample), pixel_grid(96, 96)[None])[0].abs().amax(-1) < 0.97
        inside = inside.view(96, 96).numpy()
        assert inside.mean() > 0.3
        difference = np.abs(laid - sample.first)[inside].mean()
        unmoved = np.abs(sample.second.astype(float) - sample.first)[inside].mean()
        assert difference < 4
        assert difference < unmoved / 3


def test_parts_that_are_not_wanted_are_identities(photo):
    sample = SyntheticPairs([photo], 32, affine=0.0, thin_plate=0.0)[0]
    assert sample.affine.tolist() == [1, 0, 0, 0, 1, 0]
    assert np.abs(sample.thin_plate - control_points().mT.flatten().numpy()).max() > 0.1
    sample = SyntheticPairs([photo], 32, affine=1.0, thin_plate=0.0)[0]
    np.testing.assert_array_equal(sample.thin_plate, control_points().mT.flatten().numpy())


def test_items_repeat(photo):
    samples, again = (SyntheticPairs([photo], 48, appearance=1.0, seed=3) for _ in range(2))
    again[0]
    for one, two in zip(samples[7], again[7], strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(samples[7].first, samples[8].first)
    other = SyntheticPairs([photo], 48, appearance=1.0, seed=4)
    assert not np.array_equal(samples[7].affine, other[7].affine)


def test_a_new_look_leaves_the_transform(photo):
    plain, styled = (SyntheticPairs([photo], 48, appearance=often)[2] for often in (0.0, 1.0))
    np.testing.assert_array_equal(plain.affine, styled.affine)
    assert not np.array_equal(plain.second, styled.second)


def test_ranges_of_the_paper():
    rng, ranges = np.random.default_rng(0), Ranges()
    drawn = np.array([random_affine(rng, ranges) for _ in range(2000)]).reshape(-1, 2, 3)
    scales = np.linalg.svd(drawn[..., :2])[1]
    assert 0.75 <= scales.min() < 0.77
    assert 1.23 < scales.max() <= 1.25 + 1e-6
    assert 0.24 < np.abs(drawn[..., 2]).max() <= 0.25
    left, _, right = np.linalg.svd(drawn[..., :2])
    turn = left @ right  # the rotation nearest to the matrix
    degrees = np.rad2deg(np.arctan2(turn[:, 1, 0], turn[:, 0, 0]))
    assert 14.5 < np.abs(degrees).max() <= 15.001
    bent = np.array([random_thin_plate(rng, ranges) for _ in range(200)])
    bent -= control_points().mT.flatten().numpy()
    assert 0.39 < np.abs(bent).max() <= 0.4 + 1e-6


def test_restyling_changes_much_and_moves_nothing(photo):
    """Edges stay where they are: those of the result are strong where the photograph's are."""
    small = photo[:120, :120].copy()
    strength = np.hypot(*np.gradient(small.mean(-1)))
    at_edges = strength > np.percentile(strength, 85)
    changes, ratios = [], []
    for seed in range(30):
        styled = restyle(np.random.default_rng(seed), small)
        assert styled.shape == small.shape
        assert styled.dtype == np.uint8
        changes.append(np.abs(styled.astype(float) - small).mean())
        now = np.hypot(*np.gradient(styled.mean(-1)))
        ratios.append(now[at_edges].mean() / max(now[~at_edges].mean(), 1e-3))
    assert np.mean(changes) > 30
    assert np.mean(ratios) > 1.5


def test_photos(tmp_path, photo):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        list_images(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds no picture"):
        list_images(tmp_path)
    for name in ("b.png", "a.jpg", ".hidden.png"):
        write_image(tmp_path / name, photo)
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.png"]
    assert SyntheticPairs(list_images(tmp_path), 32)[0].first.shape == (32, 32, 3)
    with pytest.raises(ValueError, match="at least one photograph is needed, got none"):
        SyntheticPairs([])
    write_image(tmp_path / "a.jpg", photo[:20])
    with pytest.warns(
        UserWarning,
        match=r"skipped: .*a.jpg: a photograph must have 32 pixels to a side, got 451 x 20",
    ):
        SyntheticPairs(list_images(tmp_path), 32, seed=1)[0]


def test_it_ends(photo):
    samples = SyntheticPairs([photo], 32, length=2)
    assert len(list(samples)) == 2
