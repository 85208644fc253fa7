"""Training of alignment networks: recipes, weights, resuming, and a decreasing loss."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from flowmatch.align import AlignNet, available, load, save_weights
from flowmatch.align.networks import MODELS
from flowmatch.align.recipes import RECIPES, AlignRecipe
from flowmatch.align.train import align_loss, collate, train_align
from flowmatch.io import write_image
from flowmatch.training import Schedule

TINY = {"stages": ["affine"], "size": 88, "width": 4, "channels": [16, 16]}


@pytest.fixture
def photos(tmp_path, photo):
    write_image(tmp_path / "photo.png", photo)
    return (tmp_path / "photo.png",)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_their_networks(name, photos):
    recipe = RECIPES[name]
    with torch.device("meta"):
        network = MODELS[recipe.model](**recipe.arguments)
    assert len(network.kinds) == len(recipe.arguments.get("stages", "12"))
    sample = recipe.samples(photos)[0]
    assert sample.first.shape == (recipe.pairs["size"], recipe.pairs["size"], 3)


def test_a_few_steps_lower_the_loss(photos, tmp_path):
    recipe = AlignRecipe(
        "align",
        Schedule(25, batch=8, learning_rate=2e-3, average=0.0),
        arguments=TINY,
        pairs={"size": 88, "thin_plate": 0.0, "length": 8},
    )
    reports = []
    network = train_align(
        recipe, photos, tmp_path / "c.pt", precision="float32", workers=0, on_step=reports.append
    )
    first, last = reports[0].metrics, reports[-1].metrics
    assert last["loss"] < first["loss"] / 3
    assert last["distance"] < first["distance"]
    assert not network.training


def test_a_backbone_learns_correspondences(photos, tmp_path):
    recipe = AlignRecipe(
        "align",
        Schedule(20, batch=4, learning_rate=3e-3, average=0.0),
        arguments={"size": 64, "width": 4, "head": "fit", "front": "structure"},
        pairs={"size": 64, "length": 4},
    )
    reports = []
    network = train_align(
        recipe, photos, tmp_path / "c.pt", precision="float32", workers=0, on_step=reports.append
    )
    first, last = reports[0].metrics, reports[-1].metrics
    assert first["loss"] > 3.5  # log of 64 positions is 4.2
    assert last["loss"] < first["loss"] - 0.7
    assert last["matched"] > first["matched"] + 0.2
    assert isinstance(network, AlignNet) and not network.training
    assert network.log_sharpness != 2.5


def test_a_resumed_run_ends_with_the_same_bits(photos, tmp_path):
    recipe = AlignRecipe("align", Schedule(4, batch=2), TINY, {"size": 88})
    expected = train_align(recipe, photos, tmp_path / "a.pt", workers=0)

    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_align(recipe, photos, tmp_path / "b.pt", workers=0, on_step=stop)
    resumed = train_align(recipe, photos, tmp_path / "b.pt", workers=0, resume=True)
    for key, weight in expected.state_dict().items():
        assert weight.equal(resumed.state_dict()[key]), key
    with pytest.raises(ValueError, match="belongs to another run"):
        train_align(replace(recipe, seed=1), photos, tmp_path / "a.pt", workers=0, resume=True)
    with pytest.raises(ValueError, match="start does not fit align: .* is missing"):
        train_align(recipe, photos, tmp_path / "c.pt", start={})


def test_batches(photos):
    samples = RECIPES["align-small"].samples(photos)
    first, second, affine, plate = collate([samples[0], samples[1]])
    side = samples.size
    assert first.shape == second.shape == (2, 3, side, side)
    assert first.dtype == torch.uint8
    assert (affine.shape, plate.shape) == ((2, 6), (2, 18))
    network = AlignNet(size=88, width=4, channels=(8, 8))
    loss, metrics = align_loss(network, [first, second, affine, plate], early=0.5)
    assert loss.requires_grad
    assert metrics["distance"] > 0.02


def test_weights_round_trip(tmp_path):
    network = AlignNet(**TINY).eval()
    save_weights(tmp_path / "w.safetensors", network, "align", TINY, torch.float32)
    loaded = load(weights=tmp_path / "w.safetensors")
    images = torch.rand(2, 1, 3, 90, 90)
    assert loaded(*images)[0].equal(network(*images)[0])


def test_weights_that_do_not_fit_raise(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        load(weights=path)
    path.write_bytes(b"12345678901")
    with pytest.raises(ValueError, match="not a whole"):
        load(weights=path)
    tensors = {"a": torch.zeros(1)}
    for metadata, message in [
        (None, "does not say its network; give one of align"),
        ({"model": "align"}, "does not fit AlignNet: .* is missing"),
        ({"model": "align", "arguments": '{"depth": 3}'}, "cannot be built"),
    ]:
        save_file(tensors, path, metadata)
        with pytest.raises(ValueError, match=message):
            load(weights=path)
    network = AlignNet(**TINY)
    with pytest.raises(ValueError, match="name must be one of align"):
        save_weights(path, network, "raft", TINY)
    network.regressions[0].out.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="must be finite"):
        save_weights(path, network, "align", TINY)


def test_loading_by_name():
    with pytest.raises(ValueError, match="no weights named 'nothing' ship"):
        load("nothing")
    for name in available():
        assert isinstance(load(name), AlignNet)
