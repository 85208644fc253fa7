"""k-means and VLAD against plain loops."""

import pytest
import torch

from flowmatch.retrieval import kmeans, vlad


def test_kmeans_finds_the_clusters_and_repeats():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (centres[:, None] + torch.randn(3, 50, 2, generator=generator)).flatten(0, 1)
    found = kmeans(points, 3, seed=4)
    order = torch.cdist(centres, found).argmin(1)
    torch.testing.assert_close(found[order], points.view(3, 50, 2).mean(1))
    assert torch.equal(found, kmeans(points, 3, seed=4))


def test_kmeans_of_repeated_points():
    found = kmeans(torch.tensor([[1.0], [1.0], [1.0], [5.0]]), 3)
    assert found.isfinite().all()
    assert set(found[:, 0].tolist()) == {1.0, 5.0}


def test_kmeans_refuses():
    with pytest.raises(ValueError, match="at least k = 3"):
        kmeans(torch.rand(2, 4), 3)
    with pytest.raises(ValueError, match="finite"):
        kmeans(torch.tensor([[1.0], [torch.nan]]), 1)


def test_vlad_by_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    local, words = (torch.randn(n, 5, generator=generator) for n in (40, 4))
    sums = torch.zeros(4, 5)
    for one in local:
        word = min(range(4), key=lambda k: float((one - words[k]).norm()))
        sums[word] += one - words[word]
    blocks = torch.stack([block / max(float(block.norm()), 1e-12) for block in sums]).flatten()
    torch.testing.assert_close(vlad(local, words), blocks / blocks.norm())
    assert not vlad(local[:0], words).any()
    with pytest.raises(ValueError, match=r"\[K, D\]"):
        vlad(local, words[:, :4])
