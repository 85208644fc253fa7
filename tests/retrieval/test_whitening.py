"""Whitening: decorrelation, and distances of matching pairs."""

import pytest
import torch

from flowmatch.retrieval import learned_whitening, pca_whitening


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    return torch.randn(400, 6, generator=generator, dtype=torch.float64) @ mixed + 3


def test_pca_decorrelates(samples):
    whitening = pca_whitening(samples)
    white = (samples - whitening.mean) @ whitening.projection.T
    torch.testing.assert_close(white.T.cov(), torch.eye(6, dtype=torch.float64))
    rotated = pca_whitening(samples, power=0)
    torch.testing.assert_close(
        rotated.projection @ rotated.projection.T, torch.eye(6, dtype=torch.float64)
    )
    variance = ((samples - rotated.mean) @ rotated.projection.T).var(0)
    assert (variance.diff() < 0).all()


def test_pca_of_few_samples_is_finite(samples):
    whitening = pca_whitening(samples[:3].repeat(2, 1))
    assert whitening.projection.shape == (5, 6)
    assert whitening.apply(samples).isfinite().all()
    with pytest.raises(ValueError, match="N > 1"):
        pca_whitening(samples[:1])


def test_learned_makes_differences_of_pairs_white():
    generator = torch.Generator().manual_seed(0)
    objects = torch.randn(300, 4, generator=generator, dtype=torch.float64)
    noise = torch.tensor([0.05, 3, 0.1, 3], dtype=torch.float64)
    views = torch.cat([objects, objects]) + noise * torch.randn(
        600, 4, generator=generator, dtype=torch.float64
    )
    q, p = torch.arange(300), torch.arange(300, 600)
    whitening = learned_whitening(views, q, p)
    differences = (views[q] - views[p]) @ whitening.projection.T
    torch.testing.assert_close(
        differences.T @ differences / 300, torch.eye(4, dtype=torch.float64), atol=5e-3, rtol=0
    )

    def accuracy(x):
        return (torch.cdist(x[q], x[p]).argmin(1) == q).double().mean()

    # Two of the four dimensions distinguish objects; they become the first two directions.
    projected = (views - whitening.mean) @ whitening.projection[:2].T
    assert accuracy(projected) > 0.25 > 0.1 > accuracy(views)
    assert whitening.apply(views, 2).shape == (600, 2)
    with pytest.raises(ValueError, match="at least one matching pair"):
        learned_whitening(views, q[:0], p[:0])
    with pytest.raises(ValueError, match=r"1\.\.4"):
        whitening.apply(views, 5)
