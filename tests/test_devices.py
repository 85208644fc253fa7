"""Devices by name, and peak memory."""

from types import SimpleNamespace

import pytest
import torch

from flowmatch.devices import PeakMemory, choose_device


def test_cpu_is_always_there():
    assert choose_device("cpu") == torch.device("cpu")
    best = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device() == torch.device(best)


@pytest.mark.parametrize("name", ["gpu", "meta", "cpu:x", ""])
def test_names_of_no_device_are_errors(name):
    with pytest.raises(ValueError, match="device must be cpu, cuda, mps, xpu or another .*, got"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "mps:9", "xpu:9", "cpu:1"])
def test_devices_of_other_machines_are_errors(name):
    with pytest.raises(ValueError, match=f"device {name} is not here"):
        choose_device(name)


@pytest.mark.parametrize("name", ["mps", "xpu", "xpu:1"])
def test_any_accelerator_of_torch_is_a_device(name, monkeypatch):
    module = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2)
    monkeypatch.setattr(torch, "get_device_module", lambda kind: module)
    assert choose_device(name) == torch.device(name)


def test_peak_memory_counts_what_is_freed_again():
    peak = PeakMemory(torch.device("cpu"))
    (torch.ones(25_000_000) + 1).sum()
    assert 150 < peak.megabytes() < 400  # two tensors of 100 MB at once


def test_peak_memory_of_other_devices_is_unknown():
    assert PeakMemory(torch.device("mps")).megabytes() is None
