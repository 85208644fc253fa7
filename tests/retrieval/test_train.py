"""Learning from pairs: the loss by hand, a network that learns, weights that come back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowmatch.align.backbones import SmallBackbone
from flowmatch.retrieval.mining import Pair
from flowmatch.retrieval.network import STORE, RetrievalNet, find_network
from flowmatch.retrieval.train import (
    RECIPES,
    RetrievalRecipe,
    TupleSamples,
    contrastive_tuples,
    describe_all,
    train_retrieval,
)
from flowmatch.training import Schedule

RECIPE = RetrievalRecipe(
    Schedule(steps=30, batch=3, learning_rate=2e-3, average=0.0), rounds=2, negatives=2, size=32
)


@pytest.fixture(scope="module")
def pictures():
    """Six things, seen twice: stripes of a direction, the second time of another strength."""
    y, x = np.mgrid[:40, :48]
    waves = [np.sin((np.cos(a) * x + np.sin(a) * y) * 0.9) for a in np.arange(6) * np.pi / 6]
    return [(128 + s * wave).astype(np.uint8) for wave in waves for s in (110, 40)]


PAIRS = [Pair(2 * k, 2 * k + 1, 30) for k in range(6)]


def test_loss_by_a_loop():
    described = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)) / 4
    total = 0.0
    for query, positive, *negatives in described.double():
        total += (query - positive).norm() ** 2 / 2
        total += sum(max(0.0, 0.7 - (query - n).norm().item()) ** 2 / 2 for n in negatives)
    assert contrastive_tuples(described).item() == pytest.approx(float(total) / 3, rel=1e-5)
    same = torch.zeros(1, 3, 4, requires_grad=True)
    contrastive_tuples(same).backward()
    assert same.grad.isfinite().all()


def test_what_is_learnt(pictures, tmp_path):
    torch.manual_seed(0)
    network, seen = RetrievalNet(width=4), []
    before = describe_all(network.eval(), pictures, 32)

    def report(done, progress):
        seen.append((done, progress))

    trained = train_retrieval(
        RECIPE, network, pictures, PAIRS, tmp_path / "r.pt", precision="float32", workers=0,
        on_step=report,
    )  # fmt: skip
    assert [(done, p.step) for done, p in seen] == [(r, s + 1) for r in (0, 1) for s in range(30)]
    assert seen[-1][1].metrics["loss"] < seen[0][1].metrics["loss"] / 2
    assert {p.name for p in tmp_path.iterdir()} == {"r-0.pt", "r-1.pt"}

    def gap(x):
        """How much more alike the two of a thing are than the most alike others."""
        alike = x[::2] @ x[1::2].T
        return (alike.diag() - alike.masked_fill(torch.eye(6, dtype=torch.bool), -2).amax(1)).mean()

    after = describe_all(trained, pictures, 32)
    assert gap(after) > gap(before) + 0.05
    assert trained.pooling.p != 3.0
    whitened = trained.whitening.apply(after)
    torch.testing.assert_close(whitened.norm(dim=1), torch.ones(12))
    assert gap(whitened) > gap(before)
    # All done: going on changes nothing.
    torch.manual_seed(0)
    again = train_retrieval(
        RECIPE, RetrievalNet(width=4), pictures, PAIRS, tmp_path / "r.pt", precision="float32",
        resume=True, workers=0,
    )  # fmt: skip
    assert again.projection.equal(trained.projection)


def test_samples_are_the_pictures_of_a_tuple(pictures):
    samples = TupleSamples(pictures, [(0, 1, (2, 4)), (3, 2, (0, 6))], size=16, seed=0)
    assert samples[0].shape == (4, 3, 16, 16)
    assert samples[0].dtype == torch.uint8
    assert not samples[0].equal(samples[1])


def test_refusals(pictures, tmp_path):
    with pytest.raises(ValueError, match="among 12 pictures no two show the same"):
        train_retrieval(RECIPE, RetrievalNet(4), pictures, [], tmp_path / "r.pt")
    with pytest.raises(ValueError, match="rounds, negatives and size must be positive"):
        replace(RECIPE, rounds=0)
    with pytest.raises(ValueError, match="expected a SmallBackbone, got Identity"):
        RetrievalNet.from_trunk(torch.nn.Identity())
    assert all(recipe.size % 32 == 0 for recipe in RECIPES.values())


def test_weights_come_back_with_their_whitening(tmp_path):
    network = RetrievalNet.from_trunk(SmallBackbone(4, "structure")).eval()
    network.projection.copy_(torch.eye(32).flip(0))
    path = tmp_path / "w.safetensors"
    STORE.save(path, network, "retrieval", network.arguments, torch.float32)
    back, name = find_network(path, "cpu")
    assert name.startswith("w.safetensors ")
    images = torch.rand(2, 3, 64, 48)
    assert back(images).equal(network(images))
    assert not back.pooled(images).equal(back(images))
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a whole"):
        find_network(path, "cpu")
