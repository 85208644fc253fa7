"""k-means and VLAD against plain loops."""

import pytest
import torch

from flowmatch.retrieval import kmeans, vlad


def test_kmeans_finds_the_clusters_and_repeats():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (centres[:, None] + torch.randn(3, 50, 2, generator=generator)).flatten(0, 1)
    result = kmeans(points, 3, seed=4)
    order = torch.cdist(centres, result).argmin(1)
    torch.testing.assert_close(result[order], points.view(3, 50, 2).mean(1))
    assert torch.equal(result, kmeans(points, 3, seed=4))


def test_kmeans_of_repeated_points():
    result = kmeans(torch.tensor([[1.0], [1.0], [1.0], [5.0]]), 3)
    assert result.isfinite().all()
    assert set(result[:, 0].tolist()) == {1.0, 5.0}


def test_kmeans_errors():
    with pytest.raises(ValueError, match="at least k = 3"):
        kmeans(torch.rand(2, 4), 3)
    with pytest.raises(ValueError, match="finite"):
        kmeans(torch.tensor([[1.0], [torch.nan]]), 1)


def test_vlad_by_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    local, words = (torch.randn(n, 5, generator=generator) for n in (40, 4))
    sums = torch.zeros(4, 5)
    for descriptor in local:
        word = min(range(4), key=lambda k: float((descriptor - words[k]).norm()))
        sums[word] += descriptor - words[word]
    blocks = torch.stack([block / max(float(block.norm()), 1e-12) for block in sums]).flatten()
    torch.testing.assert_close(vlad(local, words), blocks / blocks.norm())
    assert not vlad(local[:0], words).any()
    with pytest.raises(ValueError, match=r"\[K, D\]"):
        vlad(local, words[:, :4])
