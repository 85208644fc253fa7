"""Training on verified pairs: the loss by hand, and a network that learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowmatch.retrieval.network import RetrievalNet
from flowmatch.retrieval.training.mining import VerifiedPair
from flowmatch.retrieval.training.recipes import RECIPES, RetrievalRecipe
from flowmatch.retrieval.training.train import (
    TupleSamples,
    contrastive_tuple_loss,
    describe_all,
    round_checkpoint,
    train_retrieval,
)
from flowmatch.training import Schedule

RECIPE = RetrievalRecipe(
    Schedule(steps=30, batch=3, learning_rate=2e-3, average=0.0), rounds=2, negatives=2, size=32
)


@pytest.fixture(scope="module")
def images():
    """Six objects, twice each: stripes of one direction, the second time with less contrast."""
    y, x = np.mgrid[:40, :48]
    waves = [np.sin((np.cos(a) * x + np.sin(a) * y) * 0.9) for a in np.arange(6) * np.pi / 6]
    return [(128 + s * wave).astype(np.uint8) for wave in waves for s in (110, 40)]


PAIRS = [VerifiedPair(2 * k, 2 * k + 1, 30) for k in range(6)]


def test_loss_by_a_loop():
    descriptors = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)) / 4
    total = 0.0
    for query, positive, *negatives in descriptors.double():
        total += (query - positive).norm() ** 2 / 2
        total += sum(max(0.0, 0.7 - (query - n).norm().item()) ** 2 / 2 for n in negatives)
    assert contrastive_tuple_loss(descriptors).item() == pytest.approx(float(total) / 3, rel=1e-5)
    same = torch.zeros(1, 3, 4, requires_grad=True)
    contrastive_tuple_loss(same).backward()
    assert same.grad.isfinite().all()


def test_training_separates_objects(images, tmp_path):
    torch.manual_seed(0)
    network, reports = RetrievalNet(width=4), []
    before = describe_all(network.eval(), images, 32)

    trained = train_retrieval(
        RECIPE, network, images, PAIRS, tmp_path / "r.pt", precision="float32", workers=0,
        on_step=lambda *report: reports.append(report),
    )  # fmt: skip
    steps = [(number, report.step) for number, report in reports]
    assert steps == [(number, step + 1) for number in (0, 1) for step in range(30)]
    assert reports[-1][1].metrics["loss"] < reports[0][1].metrics["loss"] / 2
    assert {p.name for p in tmp_path.iterdir()} == {"r-0.pt", "r-1.pt"}

    def gap(x):
        """Return by how much the images of an object are more similar than the nearest others."""
        similarity = x[::2] @ x[1::2].T
        others = similarity.masked_fill(torch.eye(6, dtype=torch.bool), -2).amax(1)
        return (similarity.diag() - others).mean()

    after = describe_all(trained, images, 32)
    assert gap(after) > gap(before) + 0.05
    assert trained.pooling.p != 3.0
    whitened = trained.whitening.apply(after)
    torch.testing.assert_close(whitened.norm(dim=1), torch.ones(12))
    assert gap(whitened) > gap(before)
    # Resuming a finished training changes nothing.
    torch.manual_seed(0)
    again = train_retrieval(
        RECIPE, RetrievalNet(width=4), images, PAIRS, tmp_path / "r.pt", precision="float32",
        resume=True, workers=0,
    )  # fmt: skip
    assert again.projection.equal(trained.projection)


def test_samples_are_the_images_of_a_tuple(images):
    samples = TupleSamples(images, [(0, 1, (2, 4)), (3, 2, (0, 6))], size=16, seed=0)
    assert samples[0].shape == (4, 3, 16, 16)
    assert samples[0].dtype == torch.uint8
    assert not samples[0].equal(samples[1])


def test_errors(images, tmp_path):
    with pytest.raises(ValueError, match="no two of the 12 images show the same object"):
        train_retrieval(RECIPE, RetrievalNet(4), images, [], tmp_path / "r.pt")
    with pytest.raises(ValueError, match="rounds, negatives and size must be positive"):
        replace(RECIPE, rounds=0)
    assert all(recipe.size % 32 == 0 for recipe in RECIPES.values())


def test_round_checkpoint(tmp_path):
    assert round_checkpoint(tmp_path / "r.pt", 2) == tmp_path / "r-2.pt"
