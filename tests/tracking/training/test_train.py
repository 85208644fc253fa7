"""Training: recipes, a decreasing loss, and resuming."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowmatch.flow.synthetic import Sources
from flowmatch.tracking.networks import MODELS
from flowmatch.tracking.training.losses import box_loss
from flowmatch.tracking.training.recipes import RECIPES, TrackRecipe
from flowmatch.tracking.training.train import batch_loss, collate, train_tracker
from flowmatch.training import Schedule

TINY = {"size": 40, "width": 4, "hidden": 16}


@pytest.fixture
def sources(photo):
    return Sources((photo,), procedural=0.0)


def recipe_of(steps, batch):
    schedule = Schedule(steps, batch, learning_rate=3e-3, average=0.0)
    return TrackRecipe(
        "box-regression", schedule, TINY, {"size": 40, "pool": 1, "reuse": 64, "length": 16}
    )


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_their_networks(name, sources):
    recipe = RECIPES[name]
    with torch.device("meta"):
        network = MODELS[recipe.model](**recipe.arguments)
    pairs = recipe.samples(sources)
    assert pairs.size == network.size
    pair = replace(pairs, pool=1)[0]
    assert pair.first.shape == pair.second.shape == (network.size, network.size, 3)


def test_a_few_steps_lower_the_loss(sources, tmp_path):
    reports = []
    network = train_tracker(
        recipe_of(40, 16),
        sources,
        tmp_path / "c.pt",
        precision="float32",
        workers=0,
        on_step=reports.append,
    )
    first, last = reports[0].metrics, reports[-1].metrics
    assert last["box"] < 0.6 * first["box"]
    assert last["judged"] > 0.8
    assert not network.training


def test_a_resumed_run_ends_with_the_same_bits(sources, tmp_path):
    recipe = recipe_of(4, 2)
    expected = train_tracker(recipe, sources, tmp_path / "a.pt", workers=0)

    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_tracker(recipe, sources, tmp_path / "b.pt", workers=0, on_step=stop)
    resumed = train_tracker(recipe, sources, tmp_path / "b.pt", workers=0, resume=True)
    for key, weight in expected.state_dict().items():
        assert weight.equal(resumed.state_dict()[key]), key
    with pytest.raises(ValueError, match="belongs to another run"):
        train_tracker(replace(recipe, seed=1), sources, tmp_path / "a.pt", workers=0, resume=True)
    with pytest.raises(ValueError, match="start does not fit box-regression: .* is missing"):
        train_tracker(recipe, sources, tmp_path / "c.pt", start={})


def test_hidden_objects_have_no_box(sources):
    code, truth = torch.zeros(2, 4), torch.tensor([[1.0, 2, 0, 1], [9, 9, 9, 9]])
    logits, present = torch.tensor([100.0, 100]), torch.tensor([1.0, 0])
    loss = box_loss(code, logits, truth, present)
    assert loss.box == 1 and loss.presence == 50
    hidden = box_loss(code, -logits, truth, torch.zeros(2))
    assert hidden.box == 0 and hidden.presence == 0


def test_batches(sources):
    pairs = recipe_of(1, 2).samples(sources)
    batch = collate([pairs[0], pairs[1]])
    shapes = [tuple(part.shape) for part in batch]
    assert shapes == [(2, 3, 40, 40), (2, 3, 40, 40), (2, 4), (2,)]
    np.testing.assert_array_equal(batch[0][1].permute(1, 2, 0), pairs[1].first)
    loss, metrics = batch_loss(MODELS["box-regression"](**TINY), batch)
    assert loss.requires_grad and set(metrics) == {"box", "judged"}
