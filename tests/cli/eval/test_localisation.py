"""``flowmatch eval localisation``: table and JSON."""

import json

import pytest

from flowmatch.cli import main
from tests.localisation.room import pose_at, write_room


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval") / "room"
    write_room(folder, [pose_at(x, 0.1, -0.2, (0.02, 0, 0)) for x in (0.1, -0.4, 0.5)])
    return str(folder)


def test_json(folder, capsys):
    words = [
        "eval",
        "localisation",
        folder,
        "--hold-out",
        "3",
        "--model",
        "rootsift",
        "--json",
        "-",
    ]
    assert main(words) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["frames"], content["indexed"], content["hold_out"]) == (["0"], 2, 3)
    own = content["methods"]["localise"]
    assert own["right"] == own["trusted"] == 1 and own["largest_metres"] < 0.02
    assert content["methods"]["most similar picture"]["largest_metres"] > 0.3


def test_table(folder, capsys):
    assert main(["eval", "localisation", folder, "--hold-out", "2", "--model", "rootsift"]) == 0
    out = capsys.readouterr().out
    assert "wrong but trusted" in out and "regression, trained frames" in out
    assert "2 frames are held out, 1 are in the index" in out


def test_a_folder_without_poses(tmp_path, capsys):
    assert main(["eval", "localisation", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
