"""``flowmatch eval localisation``: table and JSON."""

import json

import numpy as np
import pytest
from skimage import data

from flowmatch.cli import main
from tests.localisation.room import K, pose_at, render, write_model, write_room

POSES = [pose_at(x, 0.1, -0.2, (0.02, 0, 0)) for x in (0.1, -0.4, 0.5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval") / "room"
    write_room(folder, POSES)
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


def test_a_model_of_colmap_takes_the_place_of_the_depth(folder, tmp_path, capsys):
    x, y = np.meshgrid(np.arange(1, 320, 3), np.arange(1, 240, 3))
    xy = np.column_stack([x.ravel(), y.ravel()])
    rays = np.column_stack([xy, np.ones(len(xy))]) @ np.linalg.inv(K).T
    pictures = []
    for k, pose in enumerate(POSES):
        depth = render(data.astronaut(), pose)[1][xy[:, 1], xy[:, 0]]
        world = (rays * depth[:, None]) @ pose[:3, :3].T + pose[:3, 3]
        moved = pose.copy()  # the model is half as large
        moved[:3, 3] /= 2
        pictures.append((f"{k}.png", moved, xy, world / 2))
    write_model(tmp_path / "two", pictures[1:], True)
    words = ["eval", "localisation", folder, "--hold-out", "3", "--model", "rootsift"]
    assert main([*words, "--poses", str(tmp_path / "two"), "--json", "-"]) == 0
    content = json.loads(capsys.readouterr().out)
    own = content["methods"]["localise"]
    assert content["poses"] == str(tmp_path / "two")
    assert own["right"] == own["trusted"] == 1 and own["largest_metres"] < 0.03
    write_model(tmp_path / "all", pictures, True)
    assert main([*words, "--poses", str(tmp_path / "all")]) == 2
    assert "without the frames that are held out, got 0.png" in capsys.readouterr().err
