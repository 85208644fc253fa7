"""Training flow networks: the recipes, and that a few steps lower the loss."""

from dataclasses import replace

import pytest
import torch

from flowmatch.flow.losses import LOSSES
from flowmatch.flow.networks import MODELS
from flowmatch.flow.synthetic import Sources, SyntheticFlow
from flowmatch.flow.train import RECIPES, collate, flow_loss, train_flow
from flowmatch.training import Schedule


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_name_networks_that_exist(name):
    recipe = RECIPES[name]
    with torch.device("meta"):
        MODELS[recipe.model](**recipe.arguments)


def test_collate():
    first, second, flow = collate([SyntheticFlow(size=(32, 48))[i] for i in range(2)])
    assert first.shape == second.shape == (2, 3, 32, 48)
    assert first.dtype == torch.uint8
    assert flow.shape == (2, 2, 32, 48)
    torch.testing.assert_close(flow[1, 0].numpy(), SyntheticFlow(size=(32, 48))[1].flow[..., 0])


def test_epe_of_the_finest_flow():
    class Constant(torch.nn.Module):
        def forward(self, first, second):
            return [torch.full((1, 2, 8 // s, 8 // s), 3.0 / s) for s in (4, 8, 8, 8, 8)]

    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    truth = torch.tensor([3.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 8, 8)
    _, metrics = flow_loss(
        Constant(), [image, image, truth], loss=LOSSES["robust"], weights=[1.0] * 5
    )
    assert metrics["epe"] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("recipe", "arguments"),
    [("pyramid-small", {}), ("flownets-thin", {"width": 1 / 8})],
    ids=str,
)
def test_twenty_steps_lower_the_loss(recipe, arguments):
    """On the same four pairs again and again, so that the loss is comparable."""
    losses = []
    pairs = SyntheticFlow(size=(64, 64), motion=((0.5, 1.0),))
    batch = collate([pairs[i] for i in range(4)])
    torch.manual_seed(0)
    chosen = RECIPES[recipe]
    network = MODELS[chosen.model](**arguments)
    loss_of = {"loss": LOSSES[chosen.loss], "weights": chosen.loss_weights}
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(20):
        loss, _ = flow_loss(network, batch, **loss_of)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_train_flow_end_to_end(tmp_path):
    recipe = replace(RECIPES["pyramid-small"], schedule=Schedule(2, batch=2), size=(64, 64))
    model = train_flow(recipe, Sources(), tmp_path / "c.pt", workers=0)
    assert not model.training
    start = {key: value.clone() for key, value in model.state_dict().items()}
    again = train_flow(recipe, Sources(), tmp_path / "d.pt", start=start, workers=0)
    assert any(not torch.equal(start[k], v) for k, v in again.state_dict().items())
    resumed = train_flow(recipe, Sources(), tmp_path / "d.pt", resume=True, workers=0)
    for a, b in zip(again.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
