"""Synthetic pairs: true transforms, reproducible items, ranges, appearance."""

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
def test_the_true_transform_warps_the_second_image_onto_the_first(photo, parts):
    samples = SyntheticPairs([photo], 96, affine=parts[0], thin_plate=parts[1])
    for index in range(3):
        sample = samples[index]
        second = torch.from_numpy(sample.second).permute(2, 0, 1)[None].float()
        warped = warp_image(stages(sample), second)[0].permute(1, 2, 0).numpy()
        inside = transform_points(stages(sample), pixel_grid(96, 96)[None])[0].abs().amax(-1) < 0.97
        inside = inside.view(96, 96).numpy()
        assert inside.mean() > 0.3
        difference = np.abs(warped - sample.first)[inside].mean()
        unmoved = np.abs(sample.second.astype(float) - sample.first)[inside].mean()
        assert difference < 4
        assert difference < unmoved / 3


def test_absent_transforms_are_identities(photo):
    sample = SyntheticPairs([photo], 32, affine=0.0, thin_plate=0.0)[0]
    assert sample.affine.tolist() == [1, 0, 0, 0, 1, 0]
    assert np.abs(sample.thin_plate - control_points().mT.flatten().numpy()).max() > 0.1
    sample = SyntheticPairs([photo], 32, affine=1.0, thin_plate=0.0)[0]
    np.testing.assert_array_equal(sample.thin_plate, control_points().mT.flatten().numpy())


def test_items_are_reproducible(photo):
    samples, repeated = (SyntheticPairs([photo], 48, appearance=1.0, seed=3) for _ in range(2))
    repeated[0]
    for a, b in zip(samples[7], repeated[7], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(samples[7].first, samples[8].first)
    other = SyntheticPairs([photo], 48, appearance=1.0, seed=4)
    assert not np.array_equal(samples[7].affine, other[7].affine)


def test_appearance_does_not_change_the_transform(photo):
    plain, styled = (
        SyntheticPairs([photo], 48, appearance=probability)[2] for probability in (0.0, 1.0)
    )
    np.testing.assert_array_equal(plain.affine, styled.affine)
    assert not np.array_equal(plain.second, styled.second)


def test_ranges_of_the_paper():
    rng, ranges = np.random.default_rng(0), Ranges()
    matrices = np.array([random_affine(rng, ranges) for _ in range(2000)]).reshape(-1, 2, 3)
    scales = np.linalg.svd(matrices[..., :2])[1]
    assert 0.75 <= scales.min() < 0.77
    assert 1.23 < scales.max() <= 1.25 + 1e-6
    assert 0.24 < np.abs(matrices[..., 2]).max() <= 0.25
    left, _, right = np.linalg.svd(matrices[..., :2])
    rotation = left @ right  # the rotation nearest to the matrix
    degrees = np.rad2deg(np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]))
    assert 14.5 < np.abs(degrees).max() <= 15.001
    displacements = np.array([random_thin_plate(rng, ranges) for _ in range(200)])
    displacements -= control_points().mT.flatten().numpy()
    assert 0.39 < np.abs(displacements).max() <= 0.4 + 1e-6


def test_restyling_keeps_the_geometry(photo):
    """Edges of the result are strong where those of the photograph are."""
    small = photo[:120, :120].copy()
    strength = np.hypot(*np.gradient(small.mean(-1)))
    at_edges = strength > np.percentile(strength, 85)
    changes, ratios = [], []
    for seed in range(30):
        styled = restyle(np.random.default_rng(seed), small)
        assert styled.shape == small.shape
        assert styled.dtype == np.uint8
        changes.append(np.abs(styled.astype(float) - small).mean())
        result = np.hypot(*np.gradient(styled.mean(-1)))
        ratios.append(result[at_edges].mean() / max(result[~at_edges].mean(), 1e-3))
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


def test_iteration_ends(photo):
    samples = SyntheticPairs([photo], 32, length=2)
    assert len(list(samples)) == 2
