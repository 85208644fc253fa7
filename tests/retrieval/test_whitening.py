"""Whitening decorrelates, and what matches comes closer."""

import pytest
import torch
import torch.nn.functional as F

from flowmatch.retrieval import augment_database, expand_queries, learned_whitening, pca_whitening


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    return torch.randn(400, 6, generator=generator, dtype=torch.float64) @ mixed + 3


def test_pca_decorrelates(samples):
    found = pca_whitening(samples)
    white = (samples - found.mean) @ found.projection.T
    torch.testing.assert_close(white.T.cov(), torch.eye(6, dtype=torch.float64))
    turned = pca_whitening(samples, power=0)
    torch.testing.assert_close(
        turned.projection @ turned.projection.T, torch.eye(6, dtype=torch.float64)
    )
    variance = ((samples - turned.mean) @ turned.projection.T).var(0)
    assert (variance.diff() < 0).all()


def test_pca_of_few_samples_is_finite(samples):
    found = pca_whitening(samples[:3].repeat(2, 1))
    assert found.projection.shape == (5, 6)
    assert found.apply(samples).isfinite().all()
    with pytest.raises(ValueError, match="N > 1"):
        pca_whitening(samples[:1])


def test_learned_makes_differences_of_pairs_white():
    generator = torch.Generator().manual_seed(0)
    things = torch.randn(300, 4, generator=generator, dtype=torch.float64)
    noise = torch.tensor([0.05, 3, 0.1, 3], dtype=torch.float64)
    seen = torch.cat([things, things]) + noise * torch.randn(
        600, 4, generator=generator, dtype=torch.float64
    )
    q, p = torch.arange(300), torch.arange(300, 600)
    found = learned_whitening(seen, q, p)
    differences = (seen[q] - seen[p]) @ found.projection.T
    torch.testing.assert_close(
        differences.T @ differences / 300, torch.eye(4, dtype=torch.float64), atol=5e-3, rtol=0
    )

    def right(x):
        return (torch.cdist(x[q], x[p]).argmin(1) == q).double().mean()

    # Two of the dimensions tell things apart, the others are noise, and the first two directions.
    told = (seen - found.mean) @ found.projection[:2].T
    assert right(told) > 0.25 > 0.1 > right(seen)
    assert found.apply(seen, 2).shape == (600, 2)
    with pytest.raises(ValueError, match="at least one pair"):
        learned_whitening(seen, q[:0], p[:0])
    with pytest.raises(ValueError, match=r"1\.\.4"):
        found.apply(seen, 5)


def test_expansion_by_hand():
    reference = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.2]]), dim=1)
    query = F.normalize(torch.tensor([[1.0, -0.3]]), dim=1)
    for alpha in (0.0, 3.0):
        similarity = reference @ query[0]
        expected = query[0] + sum(similarity[k] ** alpha * reference[k] for k in (0, 1))
        found = expand_queries(query, reference, 2, alpha=alpha)
        torch.testing.assert_close(found[0], F.normalize(expected, dim=0))
    assert torch.equal(expand_queries(query, reference, 0), query)
    # What points the other way is not added, if similarity counts.
    torch.testing.assert_close(
        expand_queries(query, reference, 3, alpha=3), expand_queries(query, reference, 2, alpha=3)
    )
    assert torch.equal(
        augment_database(reference, 0).round(decimals=6), reference.round(decimals=6)
    )
    augmented = augment_database(reference, 1)
    torch.testing.assert_close(augmented[0], F.normalize(reference[0] + reference[1], dim=0))
