"""``flowmatch align``, ``train align`` and ``eval align``: what they write, say, and return."""

import json

import numpy as np
import pytest

from flowmatch._opencv import cv2
from flowmatch.align import AlignNet, save_weights
from flowmatch.align.recipes import RECIPES, AlignRecipe
from flowmatch.cli import align as command
from flowmatch.cli import main
from flowmatch.draw import checkerboard
from flowmatch.io import read_image, write_image
from flowmatch.training import Schedule

TINY = {"size": 88, "width": 4, "channels": [8, 8]}


@pytest.fixture
def folder(tmp_path, photo):
    """A photograph, and the same turned a little and in negative."""
    matrix = np.array([[0.95, -0.1, 20.0], [0.1, 0.95, -10.0]])
    write_image(tmp_path / "a.png", photo)
    write_image(tmp_path / "b.png", cv2.warpAffine(photo, matrix, (451, 300)))
    return tmp_path


@pytest.fixture
def weights(tmp_path):
    save_weights(tmp_path / "w.safetensors", AlignNet(**TINY), "align", TINY)
    return tmp_path / "w.safetensors"


def words(folder, *more):
    return ["align", *(str(folder / f"{k}.png") for k in "ab"), "-o", str(folder / "o.png"), *more]


def test_without_weights_sift_does_it_and_is_named(folder, capsys, photo, monkeypatch):
    monkeypatch.setattr(command, "available", dict)
    assert main(words(folder)) == 0
    err = capsys.readouterr().err
    assert "aligned by sift-affine (no alignment weights ship or were given)" in err
    laid = read_image(folder / "o-warped.png")
    inside = (slice(40, -40), slice(60, -60))
    assert np.abs(laid[inside].astype(float) - photo[inside]).mean() < 5
    np.testing.assert_array_equal(read_image(folder / "o.png"), checkerboard(photo, laid))


def test_methods_by_name(folder, weights, capsys):
    assert main(words(folder, "--method", "identity")) == 0
    assert "aligned by identity, in" in capsys.readouterr().err
    moved, still = read_image(folder / "o-warped.png"), read_image(folder / "b.png")
    np.testing.assert_array_equal(moved, still)
    assert main(words(folder, "--weights", str(weights))) == 0
    assert f"aligned by the network in {weights}" in capsys.readouterr().err
    assert read_image(folder / "o-warped.png").shape == (300, 451, 3)


def test_what_is_not_found_has_a_status(folder, capsys):
    write_image(folder / "b.png", np.zeros((30, 40, 3), np.uint8))
    assert main(words(folder, "--method", "sift-affine")) == 1
    assert "NOT ALIGNED: sift-affine found no transform" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "orb"], "--method must be one of auto, network, identity, sift-affine"),
        (["--method", "identity", "--weights", "w.safetensors"], "--weights are for the network"),
        (["-o", "out.txt"], "out.txt: expected a name ending in one of"),
        (["-o", "none/out.png", "--weights", "none.safetensors"], "there is no folder none"),
        (["--weights", "none.safetensors"], "no file of weights"),
    ],
)
def test_bad_input_is_one_line(folder, more, message, capsys):
    assert main(words(folder, *more)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_eval(folder, weights, capsys):
    photos = folder / "photos"
    photos.mkdir()
    write_image(photos / "a.png", read_image(folder / "a.png"))
    line = ["eval", "align", str(photos), "--pairs", "2", "--weights", str(weights)]
    assert main(line) == 0
    out = capsys.readouterr().out
    for word in ("flowmatch", "identity", "sift-affine", "PCK@0.1 box", "2 pairs of 240 x 240"):
        assert word in out
    assert main([*line, "--json", "--appearance", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pairs"] == 2
    assert found["methods"]["identity"]["found"] == 1
    assert found["methods"]["sift-affine"]["distance"] < found["methods"]["identity"]["distance"]
    assert main(["eval", "align", str(folder / "none")]) == 2


def test_train_writes_weights_that_align(folder, monkeypatch, capsys):
    recipe = AlignRecipe("align", Schedule(2, batch=2), TINY, {"size": 88})
    monkeypatch.setitem(RECIPES, "tiny", recipe)
    line = ["train", "align", "--recipe", "tiny", "--photos", str(folder), "--workers", "0"]
    assert main([*line, "--out", str(folder / "runs")]) == 0
    assert "step 2/2" in capsys.readouterr().err
    trained = folder / "runs" / "tiny.safetensors"
    assert main(words(folder, "--weights", str(trained))) == 0
    assert main([*line, "--out", str(folder / "runs")]) == 2
    assert "is there already: --resume" in capsys.readouterr().err
    assert main(["train", "align", "--recipe", "no", *line[4:], "--out", "runs"]) == 2
