"""``flowmatch identify``: classes by examples, and errors."""

import json

import numpy as np
import pytest
import torch

from flowmatch.cli import main
from flowmatch.io import write_image
from flowmatch.metric_learning.networks import EmbeddingNet
from flowmatch.metric_learning.store import save_weights


@pytest.fixture
def words(tmp_path):
    """Return options: two classes of three shades each, and weights of an untrained network."""
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        (tmp_path / "known" / name).mkdir(parents=True)
        for i in range(3):
            shade = np.array(colour) + 5 * i
            write_image(
                tmp_path / "known" / name / f"{i}.png", np.full((20, 20, 3), shade, np.uint8)
            )
    torch.manual_seed(0)
    save_weights(tmp_path / "w.safetensors", EmbeddingNet("small", 8, size=16, metric="l2"))
    write_image(tmp_path / "a.png", np.full((20, 20, 3), (222, 34, 32), np.uint8))
    write_image(tmp_path / "b.png", np.full((20, 20, 3), (20, 240, 20), np.uint8))
    known, weights = str(tmp_path / "known"), str(tmp_path / "w.safetensors")
    return ["--enrolled", known, "--weights", weights, "--false-accept-rate", "0"]


def test_close_pictures_get_a_class_and_distant_ones_none(words, tmp_path, capsys):
    pictures = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert main(["identify", *pictures, *words, "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    first, second = report["pictures"]
    assert (first["name"], first["distance"] <= report["threshold"]) == ("red", True)
    assert (second["name"], second["distance"] > report["threshold"]) == (None, True)
    assert main(["identify", *pictures, *words]) == 0
    out = capsys.readouterr().out
    assert "unknown" in out and "red" in out and "accepted up to" in out


def test_bad_input_is_an_error(words, tmp_path, capsys):
    assert main(["identify", str(tmp_path / "none.png"), *words]) == 2
    assert "none.png" in capsys.readouterr().err
    network = EmbeddingNet("small", 8, channels=1, size=16, metric="l2")
    save_weights(tmp_path / "w.safetensors", network)
    assert main(["identify", str(tmp_path / "a.png"), *words]) == 2
    assert "for pictures of 1 channels, got 3" in capsys.readouterr().err


def test_examples_of_two_classes_that_are_alike_are_an_error(words, tmp_path, capsys):
    for name in ("red", "blue"):
        write_image(tmp_path / "known" / name / "0.png", np.zeros((20, 20, 3), np.uint8))
    assert main(["identify", str(tmp_path / "a.png"), *words, "--json", "-"]) == 2
    streams = capsys.readouterr()
    assert "examples of two classes are nearer than those of one" in streams.err
    assert streams.out == "" and streams.err.count("\n") == 1
