"""``flowmatch eval metric-learning``: one embedding, and a comparison of losses."""

import json

import numpy as np
import pytest

from flowmatch.cli import main
from flowmatch.io import read_image, write_image
from flowmatch.metric_learning import EmbeddingNet, save_weights
from flowmatch.metric_learning.protocol import COLUMNS


def test_train_then_eval(tmp_path, capsys):
    weights, picture = tmp_path / "hadsell.safetensors", tmp_path / "p.png"
    words = ["digits", "--loss", "hadsell", "--dimension", "2", "--steps", "3"]
    words = ["train", "metric-learning", *words, "--loss-arg", "margin=2", "-o", str(tmp_path)]
    assert main(words) == 0
    assert "0 min left" in capsys.readouterr().err
    assert main(words) == 2
    assert "--resume, or another --output" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    capsys.readouterr()
    words = ["digits", "--weights", str(weights), "--picture", str(picture), "--json", "-"]
    assert main(["eval", "metric-learning", *words]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert set(COLUMNS) < set(scores) and 0 < scores["EER"] < 1
    assert read_image(picture).shape == (800, 800, 3)
    assert main(["eval", "metric-learning", "digits", "--weights", str(weights)]) == 0
    assert "MAP@R" in capsys.readouterr().out


def few_pictures(folder, each):
    """Write a folder of ten classes of a few noisy pictures."""
    rng = np.random.default_rng(0)
    for label in range(10):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(each):
            shade = np.clip(25 * label + rng.integers(0, 20, (8, 8, 3)), 0, 255)
            write_image(folder / f"class{label}" / f"{number}.png", shade.astype(np.uint8))
    return str(folder)


@pytest.mark.parametrize("each", [1, 2])
def test_scores_of_few_pictures(each, tmp_path, capsys):
    weights, picture = tmp_path / "w.safetensors", tmp_path / "p.png"
    save_weights(weights, EmbeddingNet("small", 4, size=8))
    data = few_pictures(tmp_path / "data", each)
    words = ["eval", "metric-learning", data, "--weights", str(weights), "--unseen", "nothing"]
    assert main([*words, "--picture", str(picture)]) == 0
    out, err = capsys.readouterr()
    assert "R@1" in out and "NMI" in out and not err
    assert f"{10 * each} test pictures of 10 classes have too few pairs" in out
    assert ("R@1" in out and "%" in out.split("R@8")[0]) == (each == 2)
    assert read_image(picture).shape == (800, 800, 3)
    assert main([*words, "--json", "-"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["EER"] is scores["threshold"] is scores["false rejects"] is None
    assert (scores["R@1"] is None) == (each == 1) and 0 <= scores["NMI"] <= 1


def test_a_test_without_pictures_is_one_line(tmp_path, capsys):
    data = few_pictures(tmp_path / "data", 1)
    words = ["eval", "metric-learning", data, "--unseen", "pictures"]
    for options in (["--compare"], ["--weights", str(tmp_path / "w.safetensors")]):
        save_weights(tmp_path / "w.safetensors", EmbeddingNet("small", 4, size=8))
        assert main([*words, *options]) == 2
        err = capsys.readouterr().err
        assert "no pictures are left for the test" in err and err.count("\n") == 1


def test_compare(capsys):
    words = ["digits", "--compare", "--losses", "hadsell,fastap", "--steps", "2", "--seeds", "2"]
    assert main(["eval", "metric-learning", *words]) == 0
    out = capsys.readouterr().out
    for word in ("pixels", "untrained", "hadsell", "fastap", "R@8", "±", "█", "2 seeds"):
        assert word in out
    assert main(["eval", "metric-learning", *words, "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows["digits"]] == ["pixels", "untrained", "hadsell", "fastap"]


def test_runs_in_a_folder(tmp_path, capsys):
    words = ["numbers", "--compare", "--losses", "hadsell", "--steps", "3", "--seeds", "2"]
    words += ["--size", "8", "--backbone", "tiny", "--runs", str(tmp_path / "runs")]
    picture = tmp_path / "bars.png"
    assert main(["eval", "metric-learning", *words, "--picture", str(picture)]) == 0
    out, err = capsys.readouterr()
    assert "numbers  8/8  hadsell seed 1" in err and "tiny, 16 dimensions, 3 steps" in out
    assert "1200 pictures of 50 classes for training and validation, 1200 of 50 other" in out
    assert read_image(picture).shape[1] == 1200
    assert main(["eval", "metric-learning", *words, "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["pixels", "untrained", "hadsell"]
    assert rows[0]["separate"]["MAP@R"]["margin"] is None and rows[2]["seeds"] == 2
    words[words.index("--steps") + 1] = "6"
    assert main(["eval", "metric-learning", *words]) == 2
    err = capsys.readouterr().err
    assert "belongs to another run, with other steps, every" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits", "--compare", "--hard"], "--parts and --hard need --photos"),
        (["digits", "numbers", "--compare", "--runs", "r"], "--runs takes one DATA"),
        (["digits"], "either --weights or --compare"),
        (["nowhere", "--compare"], "there is no folder nowhere"),
        (["digits", "--compare", "--losses", "x"], "loss must be one of"),
        (["digits", "--weights", "none.safetensors"], "no file of weights at none.safetensors"),
        (["digits", "--weights", "none"], "none: expected weights in a .safetensors file"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "metric-learning", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
