"""Batched comparison of patches equals comparison pair by pair."""

import pytest
import torch

from flowmatch.matching.compare import compare_all_patches, compare_patches, dense_descriptors
from flowmatch.matching.networks import (
    COMPARATORS,
    HardNet,
    Siam,
    SiamBranch,
    TwoChannel,
    deepcompare,
)


@pytest.mark.parametrize("name", COMPARATORS)
def test_all_pairs_equal_pair_by_pair(name, monkeypatch):
    monkeypatch.setattr(deepcompare, "_MAX_HIDDEN", 5 * 1024 * 2)  # several chunks
    network = COMPARATORS[name]()
    first, second = torch.rand(4, 1, 64, 64), torch.rand(3, 1, 64, 64)
    result = compare_all_patches(first, second, model=network, batch=2)
    with torch.no_grad():
        expected = [[network(a[None], b[None])[0] for b in second] for a in first]
    torch.testing.assert_close(result, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert network.training


def test_patches_are_compared_in_batches():
    network = TwoChannel()
    first, second = torch.rand(5, 1, 64, 64), torch.rand(5, 1, 64, 64)
    result = compare_patches(first, second, model=network, batch=2)
    torch.testing.assert_close(result, network(first, second).detach(), rtol=1e-4, atol=1e-5)
    assert not result.requires_grad
    assert compare_patches(first[:0], second[:0], model=network).shape == (0,)
    assert compare_all_patches(first[:0], second, model=network).shape == (0, 5)


def test_branches_run_once_per_patch():
    network, sizes = Siam(), []
    network.branch.layers.conv0.register_forward_hook(lambda _, x, __: sizes.append(len(x[0])))
    compare_all_patches(torch.rand(5, 1, 64, 64), torch.rand(7, 1, 64, 64), model=network, batch=4)
    assert sizes == [4, 1, 4, 3]


def test_invalid_arguments():
    patches = torch.rand(2, 1, 64, 64)
    with pytest.raises(ValueError, match="equal numbers of patches, got 2 and 1"):
        compare_patches(patches, patches[:1], model=Siam())
    with pytest.raises(ValueError, match=r"patches must be \[N, 1, S, S\]"):
        compare_all_patches(patches[0], patches, model=Siam())
    with pytest.raises(ValueError, match="batch must be positive, got 0"):
        compare_patches(patches, patches, model=Siam(), batch=0)


def test_dense_descriptors():
    network = SiamBranch()
    image = torch.rand(1, 1, 88, 76)
    result = dense_descriptors(image, model=network)
    assert result.shape == (1, 256, 3, 2)
    assert torch.equal(result, network.dense(image).detach())
    with pytest.raises(ValueError, match=r"SiamBranch, TwoStreamBranch, TFeat\), got HardNet"):
        dense_descriptors(image, model=HardNet())
    with pytest.raises(ValueError, match="H and W at least 64"):
        dense_descriptors(image[..., :60], model=network)
