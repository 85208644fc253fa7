"""Devices by name, and the memory that something takes."""

import pytest
import torch

from flowmatch.devices import PeakMemory, choose_device


def test_cpu_is_always_there():
    assert choose_device("cpu") == torch.device("cpu")
    best = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device() == torch.device(best)


@pytest.mark.parametrize("name", ["gpu", "mps", "cpu:x", ""])
def test_refuses_what_is_no_device(name):
    with pytest.raises(ValueError, match="device must be cpu, cuda or cuda:N, got"):
        choose_device(name)


def test_refuses_a_device_that_is_not_here():
    with pytest.raises(ValueError, match="device cuda:99 is not here"):
        choose_device("cuda:99")


def test_peak_memory_sees_what_is_freed_again():
    peak = PeakMemory(torch.device("cpu"))
    (torch.ones(25_000_000) + 1).sum()
    assert 150 < peak.megabytes() < 400  # two of 100 MB at once
