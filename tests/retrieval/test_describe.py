"""Describers by name, file or module, and the describer of an index."""

import pytest
import torch

from flowmatch.retrieval import (
    BackboneDescriber,
    RetrievalNet,
    VladDescriber,
    VladOptions,
    describer_of,
    load_describer,
)
from flowmatch.retrieval.store import STORE, save_weights

OPTIONS = VladOptions(words=8, keypoints=9, side=9)
ABOUT = "words=8 keypoints=9 side=9 seed=0"


def test_local_descriptors():
    assert load_describer("sift", options=OPTIONS).about == f"vlad sift {ABOUT}"
    default = load_describer(device="cpu", options=OPTIONS)
    assert isinstance(default, VladDescriber)
    assert default.about.startswith("vlad hardnet-half.safetensors ")
    # The text names shipped weights, so that "default" finds them again.
    again = describer_of(default.about, device="cpu")
    assert again.about == default.about and type(again.descriptor) is type(default.descriptor)
    assert describer_of(f"vlad sift {ABOUT}", "rootsift").descriptor == "sift"
    by_module = load_describer(default.descriptor, options=OPTIONS)
    assert by_module.descriptor is default.descriptor and by_module.about != default.about
    assert describer_of(by_module.about, default.descriptor).about == by_module.about


def test_networks(tmp_path):
    network = RetrievalNet(4).eval()
    path = tmp_path / "w.safetensors"
    save_weights(path, network, "retrieval", network.arguments)
    by_file = load_describer(path, device="cpu")
    assert isinstance(by_file, BackboneDescriber)
    assert by_file.about.startswith(f"backbone {STORE.digest(path)} GeM")
    assert describer_of(by_file.about, str(path), device="cpu").about == by_file.about
    by_module = load_describer(network)
    assert by_module.backbone is network.maps
    assert describer_of(by_module.about, network).about == by_module.about
    # The name of a module changes with its weights.
    assert load_describer(RetrievalNet(4)).about != by_module.about


@pytest.mark.parametrize(
    ("about", "model", "message"),
    [
        ("mean colour", "default", "made by VLAD, got 'mean colour'"),
        (f"vlad net.pth 12 {ABOUT}", "default", "made with 'net.pth 12': give that network"),
        (f"vlad net.pth 12 {ABOUT}", "sift", "made with 'net.pth 12', not with 'sift'"),
        (
            f"vlad net.pth 12 {ABOUT}",
            "hardnet-half",
            "made with 'net.pth 12', not with 'hardnet-ha",
        ),
        (f"vlad net.pth 12 {ABOUT}", RetrievalNet(4), "made with 'net.pth 12', not with 'Retr"),
        ("backbone w 1 GeM", "default", "made by 'backbone w 1 GeM': give those weights"),
        ("backbone w 1 GeM", "sift", "made by 'backbone w 1 GeM', not with 'sift'"),
        ("backbone w 1 GeM", RetrievalNet(4), "not by 'backbone RetrievalNet "),
    ],
)
def test_another_model_than_that_of_the_index(about, model, message):
    with pytest.raises(ValueError, match=message):
        describer_of(about, model, device="cpu")


def test_unknown_models(tmp_path):
    for model, message in (
        ("surf", "surf"),
        ("orb", "rootsift, sift or a network, got 'orb'"),
        ("siam", "compares patches"),
        (torch.nn.Identity(), "expected a descriptor network, got Identity"),
    ):
        with pytest.raises(ValueError, match=message):
            load_describer(model, device="cpu")
    path = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError, match="w.safetensors"):
        load_describer(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a whole"):
        load_describer(path)
