"""Training by one loss: it helps, repeats, resumes, and refuses invalid recipes."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from flowmatch.metric_learning.data.datasets import digits
from flowmatch.metric_learning.fit import Recipe, embed, read_backbone, train_embedding
from flowmatch.metric_learning.networks import EmbeddingNet
from flowmatch.metric_learning.protocol import COLUMNS, evaluate_recipe, score
from flowmatch.training import TrainingDiverged


def test_training_helps_and_repeats(digit_parts):
    train, test = digit_parts
    recipe = Recipe(loss="multi-similarity", steps=40)
    networks = [train_embedding(recipe, train, seed=1) for _ in range(2)]
    for a, b in zip(*(n.state_dict().values() for n in networks), strict=True):
        assert torch.equal(a, b)
    labels = torch.from_numpy(test.labels)
    trained = score(embed(networks[0], test, 8), labels, "cosine")
    untrained = evaluate_recipe(Recipe(loss="multi-similarity", steps=0), train, test, seed=1)
    assert trained["MAP@R"] > untrained["MAP@R"] + 0.2
    assert trained["NMI"] > untrained["NMI"] + 0.1
    assert list(trained) == list(COLUMNS)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_ends_with_the_same_bits(digit_parts, tmp_path, workers):
    train, _ = digit_parts
    # With a random miner, a loss with parameters and random crops, whose state must be resumed.
    recipe = Recipe(
        loss="margin", miner="distance-weighted", steps=5, augment=True, samples_per_class=2
    )
    whole = train_embedding(recipe, train, seed=3, checkpoint=tmp_path / "a.pt")

    def stop(report):
        assert report.steps == 5 and report.seconds_left >= 0
        if report.step == 3:  # finished steps are saved whenever the run ends
            raise KeyboardInterrupt

    options = {"seed": 3, "checkpoint": tmp_path / "b.pt", "workers": workers}
    with pytest.raises(KeyboardInterrupt):
        train_embedding(recipe, train, every=2, on_step=stop, **options)
    steps = []
    resumed = train_embedding(
        recipe, train, resume=True, on_step=lambda report: steps.append(report.step), **options
    )
    assert steps == [4, 5]
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="belongs to another run"):
        train_embedding(replace(recipe, rate=1e-4), train, resume=True, **options)


def test_a_loss_that_is_not_finite_stops_and_saves_the_batch(digit_parts, tmp_path):
    recipe = Recipe(loss="hadsell", steps=9, rate=1e30, samples_per_class=2)
    with pytest.raises(TrainingDiverged, match="loss hadsell is .* at step .*b.batch.pt"):
        train_embedding(recipe, digit_parts[0], checkpoint=tmp_path / "b.pt")
    pictures, labels = torch.load(tmp_path / "b.batch.pt", weights_only=True)
    assert pictures.shape == (10, 1, 8, 8) and labels.shape == (10,)


def test_invalid_recipes_are_refused():
    for wrong, message in (
        ({"loss": "magic"}, "loss must be one of"),
        ({"miner": "magic"}, "miner must be one of paper, none, random"),
        ({"steps": -1}, "steps must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe(**wrong)
    train, _ = digits().split_pictures()
    with pytest.raises(ValueError, match="fastap compares the whole batch, got miner hard"):
        train_embedding(Recipe(loss="fastap", miner="hard", steps=1), train)


def test_starting_from_weights(tmp_path, digit_parts):
    torch.manual_seed(9)
    start = EmbeddingNet("small", 4, channels=1).backbone.state_dict()
    save_file(start | {"fc.weight": torch.zeros(3)}, tmp_path / "backbone.safetensors")
    read = read_backbone(tmp_path / "backbone.safetensors")
    network = train_embedding(Recipe(loss="hadsell", steps=0), digit_parts[0], start=read)
    assert torch.equal(network.backbone.layers[0].weight, start["layers.0.weight"])
    with pytest.raises(ValueError, match="do not fit the backbone: layers.0.weight"):
        train_embedding(Recipe(loss="hadsell", steps=0), digit_parts[0], start={})
    (tmp_path / "bad.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match="not a whole"):
        read_backbone(tmp_path / "bad.safetensors")
    save_file({"layers.0.weight": torch.tensor([torch.nan])}, tmp_path / "nan.safetensors")
    with pytest.raises(ValueError, match="must be finite, these are not: layers.0.weight"):
        read_backbone(tmp_path / "nan.safetensors")
