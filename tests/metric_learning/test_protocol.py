import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flowmatch.cli import main
from flowmatch.io import read_image, write_image
from flowmatch.metric_learning.data.datasets import digits
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.fit import Recipe, embed, read_backbone, train_embedding
from flowmatch.metric_learning.methods import METHODS, train_method
from flowmatch.metric_learning.networks import EmbeddingNet, ResNet, resnet18, resnet50
from flowmatch.metric_learning.protocol import (
    COLUMNS,
    class_folds,
    compare,
    estimate,
    evaluate_recipe,
    score,
    verification_scores,
)
from flowmatch.metric_learning.store import available, load, save_weights
from flowmatch.training import TrainingDiverged


@pytest.fixture(scope="module")
def parts():
    train, test = digits().split_pictures()
    few = np.arange(0, len(test), 4)
    return train, LabelledImages(test.pictures[few], test.labels[few], test.classes)


# ---- Networks ----------------------------------------------------------------------------------


def torchvision_names(blocks, convolutions):
    """Keys of ``torchvision.models.resnet18().state_dict()`` and so on, in order, but ``fc``."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["conv1.weight", *(f"bn1.{entry}" for entry in norm)]
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            at = f"layer{stage}.{block}"
            for i in range(1, convolutions + 1):
                names += [f"{at}.conv{i}.weight", *(f"{at}.bn{i}.{entry}" for entry in norm)]
            # Where width or stride change; ResNet-18's first stage changes neither.
            if block == 0 and (stage > 1 or convolutions == 3):
                names.append(f"{at}.downsample.0.weight")
                names += [f"{at}.downsample.1.{entry}" for entry in norm]
    return names


def test_resnets_have_the_published_parameters():
    # What torchvision prints for its models, less the classifier's 512 or 2048 times 1000 + 1000.
    for make, total, features in ((resnet18, 11_689_512, 512), (resnet50, 25_557_032, 2048)):
        with torch.device("meta"):
            network = make()
        count = sum(p.numel() for p in network.parameters())
        assert count == total - 1000 * (features + 1)
    for make, blocks, convolutions in ((resnet18, (2, 2, 2, 2), 2), (resnet50, (3, 4, 6, 3), 3)):
        with torch.device("meta"):
            assert list(make().state_dict()) == torchvision_names(blocks, convolutions)
    with torch.device("meta"):
        deep = resnet50().state_dict()
    assert tuple(deep["layer1.0.downsample.0.weight"].shape) == (256, 64, 1, 1)
    assert tuple(deep["layer3.5.conv3.weight"].shape) == (1024, 256, 1, 1)
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 2"):
        ResNet((1, 1, 1, 1), deep=False, channels=2)


def test_resnet_of_gray_is_that_of_three_equal_channels():
    torch.manual_seed(0)
    network = resnet18().eval()
    gray = torch.rand(1, 1, 40, 50)
    assert network(gray).shape == (1, 512, 2, 2)
    torch.testing.assert_close(network(gray), network(gray.expand(-1, 3, -1, -1)))


def test_frozen_norms_stay():
    for frozen in (True, False):
        network = EmbeddingNet("small", 4, channels=1, frozen_norm=frozen).train()
        before = network.backbone.layers[1].running_mean.clone()
        network(torch.rand(8, 1, 8, 8))
        assert torch.equal(before, network.backbone.layers[1].running_mean) == frozen
    with pytest.raises(ValueError, match="backbone must be one of small, resnet18, resnet50"):
        EmbeddingNet("vgg", 4)


# ---- Training and the table --------------------------------------------------------------------


def test_training_helps_and_repeats(parts):
    train, test = parts
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
def test_a_stopped_run_goes_on_to_the_same_bits(parts, tmp_path, workers):
    train, _ = parts
    # A miner that draws, proxies of their own rate, random crops: all of it must go on.
    recipe = Recipe(
        loss="margin", miner="distance-weighted", steps=5, augment=True, samples_per_class=2
    )
    whole = train_embedding(recipe, train, seed=3, checkpoint=tmp_path / "a.pt")

    def stop(progress):
        assert progress.steps == 5 and progress.seconds_left >= 0
        if progress.step == 4:
            raise KeyboardInterrupt

    kept = {"seed": 3, "checkpoint": tmp_path / "b.pt", "workers": workers}
    with pytest.raises(KeyboardInterrupt):
        train_embedding(recipe, train, every=2, on_step=stop, **kept)
    steps = []
    resumed = train_embedding(
        recipe, train, resume=True, on_step=lambda p: steps.append(p.step), **kept
    )
    assert steps == [5]
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="belongs to another run"):
        train_embedding(replace(recipe, rate=1e-4), train, resume=True, **kept)


def test_a_loss_that_is_no_number_stops_and_keeps_the_batch(parts, tmp_path):
    recipe = Recipe(loss="hadsell", steps=9, rate=1e30, samples_per_class=2)
    with pytest.raises(TrainingDiverged, match="loss hadsell is .* at step .*b.batch.pt"):
        train_embedding(recipe, parts[0], checkpoint=tmp_path / "b.pt")
    pictures, labels = torch.load(tmp_path / "b.batch.pt", weights_only=True)
    assert pictures.shape == (10, 1, 8, 8) and labels.shape == (10,)


def test_every_loss_trains(parts):
    from flowmatch.metric_learning.losses import LOSSES

    rows = list(compare(Recipe(steps=2), *parts, losses=tuple(LOSSES), seeds=1))
    assert [row.name for row in rows] == ["pixels", "untrained", *LOSSES]
    for row in rows:
        assert all(0 <= e.mean <= 1 and math.isnan(e.margin) for e in row.scores.values())


def test_every_method_trains(parts):
    rows = list(
        compare(Recipe(steps=4, samples_per_class=2), *parts, losses=tuple(METHODS), seeds=1)
    )
    assert [row.name for row in rows[2:]] == list(METHODS)
    assert all(row.problem is None for row in rows)


@pytest.mark.parametrize("name", ["htl", "divide-conquer"])
def test_methods_that_look_at_all_the_data(name, parts):
    train, test = parts
    labels = torch.from_numpy(test.labels)
    recipe = Recipe(loss="proxynca", steps=60)
    seen = []
    method = train_method(name, recipe, train, on_step=lambda p: seen.append(p.step))
    assert seen == list(range(1, 61))
    untrained = embed(train_method(name, Recipe(steps=0), train), test, 8)
    before, after = (score(x, labels, "cosine") for x in (untrained, embed(method, test, 8)))
    assert after["MAP@R"] > before["MAP@R"] + 0.1
    if name == "htl":
        assert method.hierarchical.tree.merged_at.shape == (10, 10)
        # Half of a batch's classes are the nearest of the others.
        batch = next(iter(method.batches))
        assert len({int(train.labels[i]) for i in batch}) <= 4
    else:
        assert method.together and method.clusters.max() == method.learners - 1


def test_the_cluster_of_a_batch_decides_its_learner(parts):
    train, _ = parts
    torch.manual_seed(0)
    method = METHODS["divide-conquer"](Recipe(dimension=8), train, 0).train()
    method.begin_epoch(0, 0.0)
    batch = next(iter(method.batches))
    cluster = int(method.clusters[batch[0]])
    pictures = torch.stack([torch.tensor(train.picture(i)).permute(2, 0, 1) for i in batch])
    labels = torch.from_numpy(train.labels[batch])
    method.loss(pictures.float() / 255, labels, torch.tensor(batch)).backward()
    learnt = [head.weight.grad is not None for head in method.divided.heads]
    assert learnt == [place == cluster for place in range(2)]


def test_a_loss_that_does_not_fit_costs_one_row(parts):
    recipe = Recipe(steps=1, classes=2, samples_per_class=2, dimension=8)
    rows = list(compare(recipe, *parts, losses=("deep-spectral", "hadsell"), seeds=1))
    assert "more embeddings than they have entries" in rows[2].problem
    assert math.isnan(rows[2].scores["R@1"].mean) and rows[3].problem is None
    with pytest.raises(ValueError, match="method must be one of htl"):
        train_method("magic", recipe, parts[0])


def test_parts_of_trunks_follow_each_other():
    for backbone, side in (("small", 8), ("resnet18", 64)):
        network = EmbeddingNet(backbone, 4).eval().backbone
        pictures = torch.rand(1, 3, side, side)
        x, (parts_, widths) = network.prepare(pictures), network.parts()
        for part, width in zip(parts_, widths, strict=True):
            x = part(x)
            assert x.shape[1] == width
        torch.testing.assert_close(x, network(pictures))


def test_folds(parts):
    train, test = parts
    recipe = Recipe(loss="hadsell", steps=2, dimension=3)
    alone = evaluate_recipe(recipe, train, test, folds=2)
    both = evaluate_recipe(recipe, train, test, folds=2, together=True)
    assert alone != both
    for kept, left in class_folds(7, 3):
        assert sorted(kept + left) == list(range(7)) and left
    with pytest.raises(ValueError, match="classes must be at least 3, got 2"):
        class_folds(2, 3)


def test_estimate():
    figures = [0.2, 0.4, 0.9]
    found = estimate(figures)
    assert found.mean == pytest.approx(0.5)
    # Student's t with 2 degrees of freedom: 4.302653 at 97.5 %.
    assert found.margin == pytest.approx(4.302653 * np.std(figures, ddof=1) / math.sqrt(3))
    assert math.isnan(estimate([0.3]).margin)


def test_verification_uses_another_half():
    y = torch.arange(5).repeat(40)
    x = torch.nn.functional.one_hot(y).float() + 0.4 * torch.randn(200, 5)
    found = verification_scores(x, y, "l2", 0.05)
    assert found["false accepts"] == pytest.approx(0.05, abs=0.02)
    assert 0 < found["EER"] < 0.3 and found["threshold"] > 0
    # Shifted copies: the halves are alternating items, so both see every class.
    assert verification_scores(x, y, "cosine", 1.0)["false rejects"] == pytest.approx(0, abs=0.01)


def test_recipes_refuse():
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


def test_starting_from_weights(tmp_path, parts):
    torch.manual_seed(9)
    start = EmbeddingNet("small", 4, channels=1).backbone.state_dict()
    save_file(start | {"fc.weight": torch.zeros(3)}, tmp_path / "backbone.safetensors")
    read = read_backbone(tmp_path / "backbone.safetensors")
    network = train_embedding(Recipe(loss="hadsell", steps=0), parts[0], start=read)
    assert torch.equal(network.backbone.layers[0].weight, start["layers.0.weight"])
    with pytest.raises(ValueError, match="do not fit the backbone: layers.0.weight"):
        train_embedding(Recipe(loss="hadsell", steps=0), parts[0], start={})
    (tmp_path / "bad.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match="not a whole"):
        read_backbone(tmp_path / "bad.safetensors")


# ---- Files -------------------------------------------------------------------------------------


def test_weights_round_trip(tmp_path):
    network = EmbeddingNet("small", 4, channels=1, size=8, metric="l2").eval()
    path = tmp_path / "e.safetensors"
    save_weights(path, network)
    loaded = load(path)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded(x), network(x)) and (loaded.size, loaded.metric) == (8, "l2")
    assert not loaded.training and load(weights=path).arguments == network.arguments
    for key, tensor in load_file(path).items():  # float32 in the file
        assert torch.equal(tensor, network.state_dict()[key])


def test_no_weights_ship():
    assert available() == {}
    with pytest.raises(ValueError, match="no weights for metric_learning ship"):
        load()
    with pytest.raises(ValueError, match="no weights named 'best' ship"):
        load("best")
    with pytest.raises(FileNotFoundError, match="no file of weights at none.safetensors"):
        load("none.safetensors")
    with pytest.raises(ValueError, match="must be an EmbeddingNet, got Linear"):
        load(torch.nn.Linear(1, 1))
    network = EmbeddingNet("small", 4)
    assert load(network) is network and not network.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (None, "does not say its network"),
        ([], "cannot be built with"),
        ({"dimension": 10**15}, "cannot be built with|does not fit EmbeddingNet"),
        ({"dimension": 1e308}, "cannot be built with"),
        ({"dimension": 5}, "does not fit EmbeddingNet: embedding.bias is"),
        ({"dimension": 0}, "dimension must be at least 1, got 0"),
        ({"backbone": "vgg"}, "backbone must be one of"),
        ({"backbone": []}, "cannot be built with"),
        ({"metric": "x"}, "metric must be cosine or l2, got 'x'"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"size": "8"}, "cannot be built with"),
        ({"sise": 8}, "cannot be built with"),
    ],
)
def test_untrusted_weights(tmp_path, arguments, message):
    path = tmp_path / "e.safetensors"
    network = EmbeddingNet("small", 4, channels=1)
    if isinstance(arguments, dict):
        arguments = network.arguments | arguments
    metadata = {"model": "embedding", "arguments": json.dumps(arguments)}
    save_file(network.state_dict(), path, None if arguments is None else metadata)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    network = EmbeddingNet("small", 4, channels=1)
    save_weights(tmp_path / "e.safetensors", network)
    with torch.no_grad():
        network.embedding.bias[0] = torch.nan
    with pytest.raises(ValueError, match="must be finite, these are not: embedding.bias"):
        save_weights(tmp_path / "nan.safetensors", network)
    assert not (tmp_path / "nan.safetensors").exists()
    metadata = {"model": "embedding", "arguments": json.dumps(network.arguments)}
    save_file(network.state_dict(), tmp_path / "nan.safetensors", metadata)
    with pytest.raises(ValueError, match="must be finite, these are not: embedding.bias"):
        load(tmp_path / "nan.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "e.safetensors").read_bytes()[:-9])
    with pytest.raises(ValueError, match="not a whole .safetensors file"):
        load(tmp_path / "cut.safetensors")


# ---- Commands ----------------------------------------------------------------------------------


def test_train_then_eval(tmp_path, capsys):
    weights, picture = tmp_path / "w.safetensors", tmp_path / "p.png"
    words = ["digits", "--loss", "hadsell", "--dimension", "2", "--steps", "3"]
    words = ["train", "metric-learning", *words, "--set", "margin=2", "--out", str(weights)]
    assert main(words) == 0
    assert "0 min left" in capsys.readouterr().err
    assert main(words) == 2
    assert "--resume, or another --out" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    capsys.readouterr()
    words = ["digits", "--weights", str(weights), "--picture", str(picture), "--json"]
    assert main(["eval", "metric-learning", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(COLUMNS) < set(found) and 0 < found["EER"] < 1
    assert read_image(picture).shape == (800, 800, 3)
    assert main(["eval", "metric-learning", "digits", "--weights", str(weights)]) == 0
    assert "MAP@R" in capsys.readouterr().out


def test_one_class_is_not_trained_on(tmp_path, capsys):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(2):
            shade = np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8)
            write_image(tmp_path / name / f"{i}.png", shade)
    words = ["train", "metric-learning", str(tmp_path), "--out", str(tmp_path / "w.safetensors")]
    words += ["--steps", "1", "--size", "16"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "needs two classes or more, got 1 of 2: --unseen" in error and error.count("\n") == 1
    assert main([*words, "--unseen", "nothing"]) == 0
    assert "trained on 2 of 2 classes" in " ".join(capsys.readouterr().err.split())


def test_compare(capsys):
    words = ["digits", "--compare", "--losses", "hadsell,fastap", "--steps", "2", "--seeds", "2"]
    assert main(["eval", "metric-learning", *words]) == 0
    out = capsys.readouterr().out
    for word in ("pixels", "untrained", "hadsell", "fastap", "R@8", "±", "█", "2 seeds"):
        assert word in out
    assert main(["eval", "metric-learning", *words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows["digits"]] == ["pixels", "untrained", "hadsell", "fastap"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "metric-learning", "digits"], "either --weights or --compare"),
        (["eval", "metric-learning", "nowhere", "--compare"], "there is no folder nowhere"),
        (
            ["eval", "metric-learning", "digits", "--compare", "--losses", "x"],
            "loss must be one of",
        ),
        (["eval", "metric-learning", "digits", "--weights", "none"], "no file of weights at none"),
        (
            ["train", "metric-learning", "digits", "--out", "no/where"],
            "there is no folder for no/where",
        ),
        (
            ["train", "metric-learning", "digits", "--out", "x", "--unseen", "y"],
            "pictures or nothing",
        ),
        (
            ["train", "metric-learning", "digits", "--out", "x", "--set", "margin"],
            "--set must be NAME=",
        ),
        (
            [
                "train",
                "metric-learning",
                "digits",
                "--out",
                "x",
                "--loss",
                "triplet",
                "--set",
                "scale=2",
            ],
            "loss triplet takes margin, got scale",
        ),
        (
            [
                "train",
                "metric-learning",
                "digits",
                "--out",
                "x",
                "--loss",
                "group",
                "--set",
                "anchors=1.5",
            ],
            "anchors of loss group must be a whole number, got 1.5",
        ),
    ],
)
def test_refusals(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
