"""``flowmatch train metric-learning`` and ``flowmatch eval metric-learning``."""

import json

import numpy as np
import pytest

from flowmatch.cli import main
from flowmatch.io import read_image, write_image
from flowmatch.metric_learning.protocol import COLUMNS


def test_train_then_eval(tmp_path, capsys):
    weights, picture = tmp_path / "w.safetensors", tmp_path / "p.png"
    words = ["digits", "--loss", "hadsell", "--dimension", "2", "--steps", "3"]
    words = ["train", "metric-learning", *words, "--set", "margin=2", "--out", str(weights)]
    assert main(words) == 0
    assert "0 min left" in capsys.readouterr().err
    assert main(words) == 2
    assert "--resume, or another --out" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    capsys.readouterr()
    words = ["digits", "--weights", str(weights), "--picture", str(picture), "--json"]
    assert main(["eval", "metric-learning", *words]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert set(COLUMNS) < set(scores) and 0 < scores["EER"] < 1
    assert read_image(picture).shape == (800, 800, 3)
    assert main(["eval", "metric-learning", "digits", "--weights", str(weights)]) == 0
    assert "MAP@R" in capsys.readouterr().out


def test_one_class_is_not_trained_on(tmp_path, capsys):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(2):
            shade = np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8)
            write_image(tmp_path / name / f"{i}.png", shade)
    words = ["train", "metric-learning", str(tmp_path), "--out", str(tmp_path / "w.safetensors")]
    words += ["--steps", "1", "--size", "16"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "needs two classes or more, got 1 of 2: --unseen" in error and error.count("\n") == 1
    assert main([*words, "--unseen", "nothing"]) == 0
    assert "trained on 2 of 2 classes" in " ".join(capsys.readouterr().err.split())


def test_compare(capsys):
    words = ["digits", "--compare", "--losses", "hadsell,fastap", "--steps", "2", "--seeds", "2"]
    assert main(["eval", "metric-learning", *words]) == 0
    out = capsys.readouterr().out
    for word in ("pixels", "untrained", "hadsell", "fastap", "R@8", "±", "█", "2 seeds"):
        assert word in out
    assert main(["eval", "metric-learning", *words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows["digits"]] == ["pixels", "untrained", "hadsell", "fastap"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "metric-learning", "digits"], "either --weights or --compare"),
        (["eval", "metric-learning", "nowhere", "--compare"], "there is no folder nowhere"),
        (
            ["eval", "metric-learning", "digits", "--compare", "--losses", "x"],
            "loss must be one of",
        ),
        (["eval", "metric-learning", "digits", "--weights", "none"], "no file of weights at none"),
        (
            ["train", "metric-learning", "digits", "--out", "no/where"],
            "there is no folder for no/where",
        ),
        (
            ["train", "metric-learning", "digits", "--out", "x", "--unseen", "y"],
            "pictures or nothing",
        ),
        (
            ["train", "metric-learning", "digits", "--out", "x", "--set", "margin"],
            "--set must be NAME=",
        ),
        (
            [
                "train",
                "metric-learning",
                "digits",
                "--out",
                "x",
                "--loss",
                "triplet",
                "--set",
                "scale=2",
            ],
            "loss triplet takes margin, got scale",
        ),
        (
            [
                "train",
                "metric-learning",
                "digits",
                "--out",
                "x",
                "--loss",
                "group",
                "--set",
                "anchors=1.5",
            ],
            "anchors of loss group must be a whole number, got 1.5",
        ),
    ],
)
def test_refusals(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
