import json

import numpy as np
import pytest

from flowmatch.cli import main
from flowmatch.flow.baselines import dis_refined
from flowmatch.io import VideoWriter, read_image
from flowmatch.selfsupervised import RECIPES, VideoRecipe
from flowmatch.training import Schedule


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """Two textured squares that move, and a recipe of seconds."""
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 110, (32, 50, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    things = [rng.integers(0, 255, (6, 6, 3), np.uint8).repeat(4, 0).repeat(4, 1) for _ in "ab"]
    with VideoWriter(tmp_path / "clip.avi", rate=25) as video:
        for number in range(20):
            frame = ground.copy()
            frame[16:40, 10 + 3 * number : 34 + 3 * number] = things[0]
            frame[88:112, 160 - 3 * number : 184 - 3 * number] = things[1]
            video.write(frame)
    tiny = VideoRecipe(Schedule(steps=3, batch=4), dimension=8, size=16)
    monkeypatch.setitem(RECIPES, "tiny", tiny)
    # The network's flow would be right as well, and takes longer.
    monkeypatch.setattr(
        "flowmatch.cli._video.estimate_flow", lambda a, b, **options: dis_refined(a, b)
    )
    return tmp_path / "clip.avi"


def test_train_then_eval(clip, tmp_path, capsys):
    weights, picture = tmp_path / "w.safetensors", tmp_path / "found.png"
    words = ["train", "video", str(clip), "--recipe", "tiny", "--out", str(weights)]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "of 2 tracks" in said and "min left" in said and "weights in" in said
    assert main(words) == 2
    assert "--resume, or another --out" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0  # from what was mined and trained
    assert main([*words, "--resume", "--frames", "2:"]) == 2
    assert "mined from other videos" in capsys.readouterr().err

    words = ["eval", "video", str(clip), "--recipe", "tiny", "--weights", str(weights)]
    words += ["--apart", "5", "--apart", "10"]
    assert main([*words, "--picture", str(picture)]) == 0
    out = capsys.readouterr().out
    for word in ("pixels", "colour histogram", "initialisation", "trained", "chance", "2 tracks"):
        assert word in out
    assert read_image(picture).shape[1] == 8 + 9 * 148
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows["pixels"]["10"]["R@1"] == 1.0 and 0 <= rows["trained"]["5"]["mAP"] <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "magic"], "--recipe must be one of video-small"),
        (["--frames", "5"], "--frames must be FIRST:STOP"),
        (["--flow", "magic"], "--flow must be network or dis, got 'magic'"),
        (["--frames", "0:8"], "no moving object could be tracked for long enough"),
    ],
)
def test_refusals(words, message, clip, tmp_path, capsys):
    out = str(tmp_path / "w.safetensors")
    assert main(["train", "video", str(clip), "--recipe", "tiny", "--out", out, *words]) == 2
    assert message in capsys.readouterr().err
