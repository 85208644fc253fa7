"""Descriptor networks as ONNX files, run by ONNX Runtime."""

import onnx
import onnxruntime
import pytest
import torch

from flowmatch.cli import main
from flowmatch.export import export_descriptor
from flowmatch.matching import load
from flowmatch.matching.networks import HardNet


def test_any_number_of_patches(tmp_path):
    network = HardNet(width=0.25).eval()
    report = export_descriptor(tmp_path / "d.onnx", model=network)
    assert report.difference < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "d.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3, 70):
        patches = torch.rand(count, 1, 32, 32)
        (descriptors,) = session.run(["descriptors"], {"patches": patches.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(descriptors), network(patches))


def test_the_shipped_weights(tmp_path, capsys):
    path = tmp_path / "d.onnx"
    words = ["-o", str(path), "--model", "hardnet-half", "--batch", "9"]
    assert main(["export", "matching", *words]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "ONNX Runtime differs from PyTorch by at most" in printed
    about = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert about["model"].startswith("hardnet-half.safetensors ")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    patches = torch.rand(9, 1, 32, 32)
    (descriptors,) = session.run(None, {"patches": patches.numpy()})
    with torch.no_grad():
        expected = load("hardnet-half")(patches)
    torch.testing.assert_close(torch.from_numpy(descriptors), expected, atol=1e-4, rtol=0)


def test_networks_that_compare_are_refused(tmp_path):
    with pytest.raises(ValueError, match="siam compares patches"):
        export_descriptor(tmp_path / "d.onnx", model="siam")
    with pytest.raises(ValueError, match="rootsift is no network"):
        export_descriptor(tmp_path / "d.onnx", model="rootsift")
    assert not list(tmp_path.iterdir())
