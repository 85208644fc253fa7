"""Training recipes and training of descriptors."""

from dataclasses import replace

import pytest
import torch

from flowmatch.cli import main
from flowmatch.registration.networks import slim
from flowmatch.registration.store import load, save_weights
from flowmatch.registration.training.recipes import LOSSES, RECIPES, DescriptorRecipe
from flowmatch.registration.training.train import descriptor_loss, find_samples, train_descriptor
from flowmatch.training import Schedule

TINY = DescriptorRecipe(
    "slim",
    Schedule(steps=2, batch=1, average=0.0),
    points=4,
    arguments={"channels": 1, "dimensions": 4},
    voxel=(0.02, 0.03),
)


def test_the_recipes_can_be_built():
    for recipe in RECIPES.values():
        assert len(find_samples(recipe, slim(1, 4))) > 10_000


def test_recipes_check_their_values():
    with pytest.raises(ValueError, match="loss must be"):
        replace(TINY, loss="hinge")
    with pytest.raises(ValueError, match="share of real frames"):
        replace(TINY, rgbd=1.5)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_network_learns_a_batch(loss):
    torch.manual_seed(0)
    recipe = replace(TINY, loss=loss)
    network = slim(2, 8)
    fields = torch.rand(6, 1, 30, 30, 30)
    batch = [torch.stack([fields, fields + 0.05 * torch.rand_like(fields)]), torch.eye(6)[:, :3]]
    batch[1][3:] += 5 * torch.arange(3)[:, None]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        value, metrics = descriptor_loss(network, batch, recipe=recipe)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.9 * losses[0]
    assert 0 <= metrics["first"] <= 1


def test_training_repeats_and_resumes(tmp_path):
    pytest.importorskip("accelerate")
    reports = []
    network = train_descriptor(TINY, tmp_path / "a.pt", workers=0, on_step=reports.append)
    assert [report.step for report in reports] == [1, 2] and "first" in reports[0].metrics
    resumed = train_descriptor(TINY, tmp_path / "a.pt", workers=0, resume=True)
    for a, b in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="another run"):
        train_descriptor(replace(TINY, seed=1), tmp_path / "a.pt", workers=0, resume=True)
    with pytest.raises(ValueError, match="start does not fit"):
        train_descriptor(TINY, tmp_path / "b.pt", start=slim(2, 4).state_dict(), workers=0)
    save_weights(tmp_path / "w.safetensors", network, "slim", TINY.arguments)
    assert load(weights=tmp_path / "w.safetensors").dimensions == 4


def test_the_command_reports_wrong_options(tmp_path, capsys):
    assert main(["train", "registration", "--recipe", "none", "-o", str(tmp_path)]) == 2
    (tmp_path / "slim.pt").touch()
    assert main(["train", "registration", "--recipe", "slim", "-o", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "must be one of slim" in message and "--resume" in message


def test_a_sheet_of_scans(tmp_path):
    assert main(["synth", "registration", "-o", str(tmp_path / "s.png"), "--count", "1"]) == 0
    assert (tmp_path / "s.png").stat().st_size > 1000
