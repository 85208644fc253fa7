"""``flowmatch train flow``: interruption, and messages about bad input."""

from dataclasses import replace

import pytest

from flowmatch.cli import main
from flowmatch.flow import load
from flowmatch.flow.training.recipes import RECIPES
from flowmatch.training import Schedule


@pytest.mark.parametrize(
    ("workers", "render"), [("0", "workers"), ("0", "device"), ("1", "device")]
)
def test_train_stops_and_resumes(workers, render, tmp_path, monkeypatch, capsys):
    tiny = replace(RECIPES["pyramid-small"], schedule=Schedule(2, batch=1), size=(64, 64))
    monkeypatch.setitem(RECIPES, "tiny", tiny)
    words = ["train", "flow", "--recipe", "tiny", "-o", str(tmp_path)]
    words += ["--workers", workers, "--render", render]
    assert main(words) == 0
    assert "step 2/2" in capsys.readouterr().err
    assert type(load(weights=tmp_path / "tiny.safetensors")).__name__ == "PyramidNet"
    assert main(words) == 2
    assert "--resume, or another --output" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0


@pytest.mark.filterwarnings("default:skipped")
def test_an_error_in_a_worker_is_one_line(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"not a picture")
    words = ["-o", str(tmp_path / "out"), "--photos", str(tmp_path / "photos")]
    assert main(["train", "flow", "--recipe", "pyramid-small", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Original Traceback" not in lines
    assert lines[-1].startswith("error: none of 20 items chosen at random can be read")
    assert f"{tmp_path}/photos/broken.jpg is damaged" in lines[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "pyramid-small", "-o", "r", "--precision", "int8"], "got 'int8'"),
        (["--recipe", "nonsense", "-o", "runs"], "got 'nonsense'"),
        (["--recipe", "pyramid-small", "-o", "w.safetensors"], "--output must be a folder"),
        (["--recipe", "pyramid-small", "-o", "r", "--start", "w.pth"], "weights convert w.pth"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "flow", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
