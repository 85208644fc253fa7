"""``flowmatch eval metric-learning``: one embedding, and a comparison of losses."""

import json

import pytest

from flowmatch.cli import main
from flowmatch.io import read_image
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


def test_compare(capsys):
    words = ["digits", "--compare", "--losses", "hadsell,fastap", "--steps", "2", "--seeds", "2"]
    assert main(["eval", "metric-learning", *words]) == 0
    out = capsys.readouterr().out
    for word in ("pixels", "untrained", "hadsell", "fastap", "R@8", "±", "█", "2 seeds"):
        assert word in out
    assert main(["eval", "metric-learning", *words, "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows["digits"]] == ["pixels", "untrained", "hadsell", "fastap"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
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
