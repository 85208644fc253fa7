"""``flowmatch eval track``: tables and JSON, of rendered clips and of a video."""

import json

import numpy as np
import pytest

import flowmatch.tracking.synthetic.clips as clips
from flowmatch.cli import main
from flowmatch.io import VideoWriter, write_image


def test_rendered_clips(tmp_path, photo, monkeypatch, capsys):
    monkeypatch.setattr(clips, "LENGTH", 4)
    (tmp_path / "photos").mkdir()
    write_image(tmp_path / "photos" / "a.png", photo)
    words = ["eval", "track", "--count", "1", "--photos", str(tmp_path / "photos")]
    assert main(words) == 0
    out = capsys.readouterr().out
    for text in ("OpenCV MIL", "plain flow", "OpenCV Lucas-Kanade", "success AUC", "delta avg"):
        assert text in out
    assert "smoke numbers" in out
    assert main([*words, "--json", "-", "--no-baselines"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["boxes"]) == set(result["points"]) == {"flowmatch"}
    assert result["boxes"]["flowmatch"]["success"] > 0.5
    assert result["points"]["flowmatch"]["delta"] > 0.5


@pytest.fixture
def street(tmp_path, photo):
    with VideoWriter(tmp_path / "clip.avi", rate=25) as video:
        for t in range(4):
            video.write(np.ascontiguousarray(photo[60:180, 100 + 2 * t : 260 + 2 * t]))
    (tmp_path / "gt.txt").write_text("1,1,41,31,50,60\n4,1,35,31,50,60\n")
    return ["eval", "track", "--clip", str(tmp_path / "clip.avi"), "--no-baselines"]


def test_a_video(street, tmp_path, capsys):
    words = [*street, "--boxes", str(tmp_path / "gt.txt")]
    assert main(words) == 0
    assert "1 box of 1 clip or video" in capsys.readouterr().out
    assert main([*words, "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["boxes"]["flowmatch"]["iou"] > 0.6 and result["points"] == {}
    assert main([*words, "--frames", "9:"]) == 2
    assert "expected boxes in the frames 9:, got none" in capsys.readouterr().err


def test_bad_input(street, tmp_path, capsys):
    assert main(street) == 2
    assert "--clip and --boxes belong together" in capsys.readouterr().err
    (tmp_path / "gt.txt").write_text("7,1,41,31,50,60\n9,1,41,31,50,60\n")
    assert main([*street, "--boxes", str(tmp_path / "gt.txt")]) == 2
    assert "expected 9 frames that can be read" in capsys.readouterr().err
