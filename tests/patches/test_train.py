"""Training patch networks: the recipes, and that a few steps lower the loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowmatch.cli import main
from flowmatch.io import write_image
from flowmatch.patches import load
from flowmatch.patches.metrics import false_positive_rate
from flowmatch.patches.networks import DESCRIPTORS, MODELS, SIMILARITIES
from flowmatch.patches.recipes import RECIPES, PatchRecipe
from flowmatch.patches.synthetic import SyntheticPatches
from flowmatch.patches.train import (
    collate,
    descriptor_loss,
    loss_of,
    same_points,
    samples_of,
    similarity_loss,
    train_patches,
)
from flowmatch.training import Schedule


def short(recipe, steps, **changes):
    """As many steps of a recipe with few patches."""
    schedule = replace(recipe.schedule, steps=steps, batch=1, average=0.0, learning_rate=1e-3)
    return replace(recipe, schedule=schedule, pool=1, reuse=10**6, **{"points": 32} | changes)


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("photos")
    write_image(folder / "cat.png", photo)
    return [folder / "cat.png"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_their_networks(name):
    """A loss that the network can have, of patches it can take, with gradients for all of it."""
    recipe = RECIPES[name]
    kinds = SIMILARITIES if recipe.loss == "hinge" else DESCRIPTORS
    assert recipe.model in kinds
    network = MODELS[recipe.model](**recipe.arguments)
    samples = samples_of(recipe, [], network)
    assert (samples.size, samples.points) == (network.patch_size, recipe.points)
    patches = torch.randint(256, (2, 6, 1, samples.size, samples.size), dtype=torch.uint8)
    place = torch.stack([torch.arange(6.0), *torch.zeros(3, 6)], dim=1)
    loss, numbers = loss_of(recipe)(network, [*patches, place])
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
    train_patches(recipe, photos, tmp_path / "c.pt", workers=0, report=seen.append)
    losses = [progress.metrics["loss"] for progress in seen]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    assert (tmp_path / "c.pt").exists()


def test_start_has_to_fit(tmp_path, photos):
    state = MODELS["2ch"]().state_dict()
    with pytest.raises(ValueError, match="weights to start from do not fit hardnet"):
        train_patches(RECIPES["hardnet-half"], photos, tmp_path / "c.pt", start=state)


def test_points_that_are_one_are_no_negatives():
    place = torch.tensor([[0, 10, 10, 2], [0, 13, 10, 1], [0, 16, 10, 2], [1, 10, 10, 2.0]])
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 1] = expected[1, 0] = expected[1, 2] = expected[2, 1] = True
    assert torch.equal(same_points(place), expected)


def test_the_second_patch_of_a_pair_is_the_positive(photo):
    """Pixels alone find many of the pairs; after a swap, hardly any."""

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


def test_similarities_are_shown_pairs_and_others(photo):
    seen = []

    class Shown(torch.nn.Module):
        def forward(self, first, second):
            seen.append((first, second))
            return -(first - second).abs().mean(dim=(1, 2, 3))

    first, second, place = collate([SyntheticPatches([photo], points=16, pool=1)[0]])
    _, numbers = similarity_loss(Shown(), [first, second, place])
    ((a, b),) = seen
    assert torch.equal(a[:16] * 255, first.float())
    assert torch.equal(b[:16] * 255, second.float())
    # Of the others, both orders: the second view's patch first.
    same = same_points(place)
    for k in range(16):
        other = (a[16 + k] * 255 == second.float()).flatten(1).all(1).nonzero()
        assert not same[k, other].any()
    assert 0 <= numbers["fpr95"] <= 1


def test_command(tmp_path, photos, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "hardnet-half", short(RECIPES["hardnet-half"], 2, points=8))
    out = tmp_path / "out"
    words = ["train", "patches", "--recipe", "hardnet-half", "--out", str(out)]
    more = ["--photos", str(photos[0].parent), "--device", "cpu", "--workers", "0"]
    assert main([*words, *more]) == 0
    assert "step 2/2  loss" in capsys.readouterr().err
    network = load(weights=out / "hardnet-half.safetensors")
    assert network.magnification == RECIPES["hardnet-half"].arguments["magnification"]
    assert main([*words, *more]) == 2
    assert "--resume, or another --out" in capsys.readouterr().err
    assert main([*words[:3], "siamese", *words[4:]]) == 2
    assert "--recipe must be one of hardnet-half" in capsys.readouterr().err


def test_false_positive_rate():
    """Of 20 true pairs 19 have to pass: the threshold is the second lowest, 1."""
    alike = [0, *range(1, 20)]
    assert false_positive_rate(alike, [0.5, 1, 1.5, -3]) == 0.5
    assert false_positive_rate(alike, [0.5], recall=1.0) == 1.0
    assert np.isnan(false_positive_rate([], [1.0]))
