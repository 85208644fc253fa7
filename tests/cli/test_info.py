"""``flowmatch info``: versions, kernels and weights."""

import pytest
import torch

from flowmatch.cli import main


def test_info(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "flowmatch 0.1.0" in text
    assert any("correlation" in line and "compiled" in line for line in text.splitlines())
    assert "pyramid (flow, default): " in text
    assert "spin (registration" in text
    assert "align-fit (align" in text


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_info_lists_accelerators_without_kernels(kind, capsys, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert main(["info"]) == 0
    assert f"  {kind}: 2 devices, operators run as references\n" in capsys.readouterr().out
