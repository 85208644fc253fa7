"""Patch weights by name and by file, and the default of matching."""

import numpy as np
import pytest
import torch

from flowmatch.cli import main
from flowmatch.io import write_image
from flowmatch.matching import (
    MatchOptions,
    available,
    describe_keypoints,
    detect_keypoints,
    load,
    match_images,
    save_weights,
)
from flowmatch.matching.describe import descriptors, load_descriptor
from flowmatch.matching.networks import DESCRIPTORS, HardNet, Siam
from flowmatch.matching.patches import magnification_of
from flowmatch.matching.training.recipes import RECIPES
from flowmatch.zoo import WEIGHTS


def test_shipped_weights_load_and_their_index_is_complete():
    index = available()
    assert [e["model"] in DESCRIPTORS for e in index.values() if e.get("default")] == [True]
    assert {"siam", "2ch"} <= index.keys()
    for name, entry in index.items():
        assert {"file", "summary", "command", "data", "seed", "steps", "commit"} <= entry.keys()
        # Each recipe starts with the weights of the previous one.
        recipes = [RECIPES[recipe] for recipe in entry["recipe"]]
        assert [recipe.schedule.steps for recipe in recipes] == entry["steps"]
        assert {recipe.model for recipe in recipes} == {entry["model"]}
        for recipe, command in zip(entry["recipe"], entry["command"], strict=True):
            assert f"--recipe {recipe} " in command
        assert (WEIGHTS / entry["file"]).stat().st_size < 6 * 2**20
        network = load(name)
        assert not network.training
        assert all(p.dtype == torch.float32 for p in network.parameters())


def test_round_trip(tmp_path):
    arguments = {"width": 0.25, "magnification": 9.0}
    network = HardNet(**arguments)
    save_weights(tmp_path / "w.safetensors", network, "hardnet", arguments)
    loaded = load_descriptor(str(tmp_path / "w.safetensors"))
    assert isinstance(loaded, HardNet)
    assert magnification_of(loaded) == 9
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, network.state_dict()[key].half().to(value.dtype))


def test_invalid_weights(tmp_path):
    with pytest.raises(ValueError, match="no weights named 'surf'.*there are: .*siam"):
        load("surf")
    with pytest.raises(ValueError, match="name must be one of siam-desc"):
        save_weights(tmp_path / "w.safetensors", Siam(), "twins")
    save_weights(tmp_path / "siam.safetensors", Siam(), "siam")
    for word in ("siam", str(tmp_path / "siam.safetensors")):
        with pytest.raises(ValueError, match="compares patches, it does not describe them"):
            load_descriptor(word)
    with pytest.raises(FileNotFoundError):
        load_descriptor(str(tmp_path / "none.safetensors"))
    with pytest.raises(ValueError, match="0 < magnification <= 100, got 0"):
        HardNet(width=0.5, magnification=0)
    image = np.zeros((32, 32), np.uint8)
    with pytest.raises(ValueError, match="compares patches, it does not describe them"):
        describe_keypoints(image, detect_keypoints(image), model="siam")


def test_magnification_of_a_network_is_the_default(photo):
    """An explicit equal magnification changes nothing; another changes the descriptors."""
    points = detect_keypoints(photo, keypoints=40)
    network = HardNet(width=0.25, magnification=9.0).eval()

    def describe(model, **options):
        return describe_keypoints(photo, points, model=model, device="cpu", **options)

    assert torch.equal(describe(network), describe(network, magnification=9.0))
    assert not torch.allclose(describe(network), describe(network, magnification=6.0))
    assert torch.equal(describe("default"), describe(load()))
    assert "default" not in descriptors()


def test_the_default_matches(tmp_path, photo, capsys):
    """Function and command recover a rotation by 90 degrees at half the size."""
    other = np.ascontiguousarray(np.rot90(photo)[::2, ::2])
    matches = match_images(photo, other, options=MatchOptions(keypoints=800))
    assert matches.inliers.sum() > 30
    middle = matches.matrix @ [225, 150, 1]
    assert np.allclose(middle[:2] / middle[2], [75, 112.5], atol=2)
    for name, image in (("a", photo), ("b", other)):
        write_image(tmp_path / f"{name}.png", image)
    words = ["match", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--device", "cpu"]
    assert main([*words, "--keypoints", "800"]) == 0
    assert f"{matches.inliers.sum()} inliers of a homography" in capsys.readouterr().err
