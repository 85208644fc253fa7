"""``flowmatch train metric-learning``: classes, and messages about bad input."""

import numpy as np
import pytest

from flowmatch.cli import main
from flowmatch.io import write_image


def test_one_class_is_not_trained_on(tmp_path, capsys):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(2):
            shade = np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8)
            write_image(tmp_path / name / f"{i}.png", shade)
    words = ["train", "metric-learning", str(tmp_path), "-o", str(tmp_path / "run")]
    words += ["--steps", "1", "--size", "16"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "needs two classes or more, got 1 of 2: --unseen" in error and error.count("\n") == 1
    assert main([*words, "--unseen", "nothing"]) == 0
    assert "trained on 2 of 2 classes" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--unseen", "y"], "pictures or nothing"),
        (["--loss-arg", "margin"], "--loss-arg must be NAME="),
        (["--loss", "triplet", "--loss-arg", "scale=2"], "loss triplet takes margin, got scale"),
        (
            ["--loss", "group", "--loss-arg", "anchors=1.5"],
            "anchors of loss group must be a whole number, got 1.5",
        ),
        (["-o", "w.safetensors"], "--output must be a folder, w.safetensors is named like a file"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "metric-learning", "digits", "-o", "x", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
