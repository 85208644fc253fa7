"""Training of patch networks: valid recipes, losses, and a few steps that lower the loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowmatch.cli import main
from flowmatch.io import write_image
from flowmatch.matching import load
from flowmatch.matching.networks import COMPARATORS, DESCRIPTORS, MODELS
from flowmatch.matching.synthetic.pairs import SyntheticPatches
from flowmatch.matching.training.recipes import RECIPES, PatchRecipe
from flowmatch.matching.training.train import (
    HardPairMiner,
    build_loss,
    build_samples,
    collate,
    descriptor_loss,
    hard_pair_loss,
    same_points,
    similarity_loss,
    train_patches,
    training_module,
)
from flowmatch.training import Schedule


def short(recipe, steps, **changes):
    """Return a recipe with that many steps and few patches."""
    schedule = replace(recipe.schedule, steps=steps, batch=1, average=0.0, learning_rate=1e-3)
    return replace(recipe, schedule=schedule, pool=1, reuse=10**6, **{"points": 32} | changes)


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("photos")
    write_image(folder / "cat.png", photo)
    return [folder / "cat.png"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_their_networks(name):
    """The loss fits the network and gives gradients for all parameters."""
    recipe = RECIPES[name]
    kinds = COMPARATORS if recipe.loss.startswith("hinge") else DESCRIPTORS
    assert recipe.model in kinds
    network = MODELS[recipe.model](**recipe.arguments)
    samples = build_samples(recipe, [], network)
    assert (samples.size, samples.points) == (network.patch_size, recipe.points)
    patches = torch.randint(256, (2, 6, 1, samples.size, samples.size), dtype=torch.uint8)
    location = torch.stack([torch.arange(6.0), *torch.zeros(3, 6)], dim=1)
    loss, numbers = build_loss(recipe)(training_module(recipe, network), [*patches, location])
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())
    assert numbers


def test_unknown_loss():
    with pytest.raises(ValueError, match="loss must be one of triplet, .*, got 'l1'"):
        PatchRecipe("hardnet", Schedule(1, 1), "l1")


@pytest.mark.parametrize("name", ["hardnet-half", "2ch"])
def test_few_steps_lower_the_loss(tmp_path, photos, name):
    seen = []
    recipe = short(RECIPES[name], 12)
    train_patches(recipe, photos, tmp_path / "c.pt", workers=0, on_step=seen.append)
    losses = [progress.metrics["loss"] for progress in seen]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    assert (tmp_path / "c.pt").exists()


def test_initial_weights_must_fit(tmp_path, photos):
    state = MODELS["2ch"]().state_dict()
    with pytest.raises(ValueError, match="start does not fit hardnet: "):
        train_patches(RECIPES["hardnet-half"], photos, tmp_path / "c.pt", start=state)


def test_close_points_are_not_negatives():
    location = torch.tensor([[0, 10, 10, 2], [0, 13, 10, 1], [0, 16, 10, 2], [1, 10, 10, 2.0]])
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 1] = expected[1, 0] = expected[1, 2] = expected[2, 1] = True
    assert torch.equal(same_points(location), expected)


def test_the_second_patch_of_a_pair_is_the_positive(photo):
    """Pixels match many of the pairs, and hardly any after a swap."""

    def pixels(patches):
        flat = patches.flatten(1)
        return torch.nn.functional.normalize(flat - flat.mean(1, keepdim=True), dim=1)

    batch = collate([SyntheticPatches([photo], points=32, pool=1)[k] for k in range(2)])
    assert batch[0].shape == (64, 1, 32, 32)
    _, numbers = descriptor_loss(pixels, batch)
    _, swapped = descriptor_loss(pixels, [batch[0], batch[1].roll(1, 0), batch[2]])
    assert numbers["wrong"] < 0.6
    assert swapped["wrong"] > 0.8
    assert numbers["positive"] < swapped["positive"]


def test_comparators_are_trained_on_positives_and_negatives(photo):
    seen = []

    class Shown(torch.nn.Module):
        def forward(self, first, second):
            seen.append((first, second))
            return -(first - second).abs().mean(dim=(1, 2, 3))

    first, second, location = collate([SyntheticPatches([photo], points=16, pool=1)[0]])
    _, numbers = similarity_loss(Shown(), [first, second, location])
    ((a, b),) = seen
    assert torch.equal(a[:16] * 255, first.float())
    assert torch.equal(b[:16] * 255, second.float())
    # Both orders: positives have the patch of the second view first.
    same = same_points(location)
    for k in range(16):
        other = (a[16 + k] * 255 == second.float()).flatten(1).all(1).nonzero()
        assert not same[k, other].any()
    assert 0 <= numbers["fpr95"] <= 1


class _Numbers(torch.nn.Module):
    """Siamese network with different branches, whose patches are numbers."""

    patch_size, second = 1, "of its own"

    def features(self, patches, *, second=False):
        return patches.flatten(1) * 255 + (0.25 if second else 0)

    def compare(self, first, second):
        return 1 - (first - second).abs()[:, 0]

    def compare_all(self, first, second):
        return 1 - (first - second.T).abs()


def test_hard_pairs_are_mined():
    first = torch.tensor([10.0, 20, 40, 41])
    second = torch.tensor([10.0, 23, 39, 80])
    location = torch.tensor(
        [[0, 0, 0, 0, 1], [0, 50, 0, 0, 1], [0, 90, 0, 0, 1], [0, 91, 0, 0, 1.0]]
    )
    patches = [part.byte()[:, None, None, None] for part in (first, second)]
    mined = HardPairMiner(_Numbers())
    seen, useful = mined(*(p.float() / 255 for p in patches), same_points(location))
    assert useful.all()
    # The second branch adds a quarter: to the second view, or to the first in the other order.
    for k, (a, b) in enumerate([(first, second + 0.25), (first + 0.25, second)]):
        expected = 1 - (a[:, None] - b[None]).abs()
        other = expected.masked_fill(same_points(location), -torch.inf)
        if k == 0:
            torch.testing.assert_close(seen[0, 0], expected.diagonal())
            torch.testing.assert_close(seen[0, 1], other.amax(dim=1))
            torch.testing.assert_close(seen[0, 2], other.amax(dim=0))
        else:
            torch.testing.assert_close(seen[1, 0], expected.diagonal())
            torch.testing.assert_close(seen[1, 1], other.amax(dim=0))
            torch.testing.assert_close(seen[1, 2], other.amax(dim=1))
    loss, numbers = hard_pair_loss(mined, [*patches, location])
    assert numbers["wrong"] == 0.25  # the last: 41 is closer to 23 than to 80
    # All negatives are beyond the margin.
    torch.testing.assert_close(loss, (1 - seen[:, 0]).clamp_min(0).mean() / 2)
    with pytest.raises(ValueError, match="needs a Siamese network, got TwoChannel"):
        HardPairMiner(MODELS["2ch"]())


def test_hard_pair_loss():
    """Positives score 0.75; negatives score -0.25 and 0.25 instead of at most -1."""
    patches = torch.tensor([10, 11], dtype=torch.uint8)[:, None, None, None]
    location = torch.tensor([[0, 0, 0, 0, 1], [1, 0, 0, 0, 1.0]])
    loss, numbers = hard_pair_loss(HardPairMiner(_Numbers()), [patches, patches, location])
    torch.testing.assert_close(loss, torch.tensor(0.5 * 0.25 + 0.5 * (0.75 + 1.25) / 2))
    assert numbers == {"wrong": 0.0, "fpr95": 0.0}


def test_a_single_location_has_no_negatives():
    patches = torch.zeros(2, 1, 1, 1, dtype=torch.uint8)
    loss, _ = hard_pair_loss(HardPairMiner(_Numbers()), [patches, patches, torch.zeros(2, 5)])
    assert loss == 0.125  # half of the hinge 0.25 of the positives


def test_command(tmp_path, photos, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "hardnet-half", short(RECIPES["hardnet-half"], 2, points=8))
    out = tmp_path / "out"
    words = ["train", "matching", "--recipe", "hardnet-half", "-o", str(out)]
    options = ["--photos", str(photos[0].parent), "--device", "cpu", "--workers", "0"]
    assert main([*words, *options]) == 0
    assert "step 2/2  loss" in capsys.readouterr().err
    network = load(weights=out / "hardnet-half.safetensors")
    assert network.magnification == RECIPES["hardnet-half"].arguments["magnification"]
    assert main([*words, *options]) == 2
    assert "--resume, or another --out" in capsys.readouterr().err
    assert main([*words[:3], "siamese", *words[4:]]) == 2
    assert "--recipe must be one of hardnet-half" in capsys.readouterr().err
