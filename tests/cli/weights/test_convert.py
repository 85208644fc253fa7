"""``flowmatch weights convert``: a published checkpoint in two precisions."""

import pytest
import torch

from flowmatch.cli import main
from flowmatch.flow import RAFTSmall


def test_half_and_float(tmp_path, capsys):
    torch.save(RAFTSmall(iterations=1).state_dict(), tmp_path / "raft.pth")
    output = tmp_path / "raft.safetensors"
    words = ["weights", "convert", str(tmp_path / "raft.pth"), "-o", str(output)]
    sizes = []
    for more in ([], ["--float32"]):
        assert main([*words, *more]) == 0
        assert "torchvision's raft_small, as raft-small, in " in capsys.readouterr().err
        sizes.append(output.stat().st_size)
    assert sizes[1] - sizes[0] == pytest.approx(2 * 990_162, rel=0.01)  # bytes
    assert main([*words[:2], str(tmp_path / "no.pth"), *words[3:]]) == 2
    assert "there is no checkpoint at" in capsys.readouterr().err


def test_a_missing_folder_is_an_error_before_the_work(tmp_path, capsys):
    assert main(["weights", "convert", "no.pth", "-o", str(tmp_path / "no/raft.safetensors")]) == 2
    assert "there is no folder" in capsys.readouterr().err
