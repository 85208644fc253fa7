"""Training recipes."""

import pytest
import torch

from flowmatch.flow.networks import MODELS
from flowmatch.flow.training.losses import LOSSES
from flowmatch.flow.training.recipes import RECIPES, VIDEO


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_their_networks(name):
    """The network and loss of each recipe exist, with as many flows as loss weights."""
    recipe = RECIPES[name]
    assert recipe.loss in (*LOSSES, VIDEO)
    assert recipe.augment().size == recipe.size
    model = MODELS[recipe.model](**recipe.arguments)
    if recipe.passes:
        model.iterations = recipe.passes
    flows = model(*torch.rand(2, 1, 3, 64, 64))
    assert len(flows) == len(recipe.loss_weights)


def test_published_schedules():
    """Ilg et al.: S_long halves at 400, 600, 800 and 1000 thousand steps, S_fine uses Things."""
    long, fine = RECIPES["flownets-long"], RECIPES["flownets-fine"]
    assert long.mix == (("chairs", 1.0),)
    assert fine.mix == (("things", 1.0),)
    rates = [long.schedule.rate_at(step) for step in (0, 399_999, 400_000, 1_199_999)]
    assert rates == [1e-4, 1e-4, 5e-5, 1e-4 / 16]
    warm = RECIPES["flownetc-long"].schedule
    assert warm.rate_at(0) == pytest.approx(4e-6)
    assert warm.rate_at(10_000) == 1e-4
