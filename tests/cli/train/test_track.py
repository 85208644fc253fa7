"""``flowmatch train track``: weights that track."""

import numpy as np

from flowmatch.cli import main
from flowmatch.io import write_image
from flowmatch.tracking.training.recipes import RECIPES, TrackRecipe
from flowmatch.training import Schedule


def test_the_weights_track(tmp_path, photo, monkeypatch, capsys):
    tiny = {"size": 40, "width": 4, "hidden": 8}
    recipe = TrackRecipe("box-regression", Schedule(2, batch=2), tiny, {"size": 40, "pool": 1})
    monkeypatch.setitem(RECIPES, "tiny", recipe)
    (tmp_path / "photos").mkdir()
    write_image(tmp_path / "photos" / "a.png", photo)
    words = ["train", "track", "--recipe", "tiny", "--photos", str(tmp_path / "photos")]
    words += ["--workers", "0", "-o", str(tmp_path / "runs")]
    assert main(words) == 0
    assert "step 2/2" in capsys.readouterr().err
    for t in range(2):
        write_image(tmp_path / f"{t}.png", np.ascontiguousarray(photo[:, t : t + 200]))
    line = ["track", str(tmp_path / "[01].png"), "--box", "50,60,40,40"]
    line += [
        "-o",
        str(tmp_path / "b.csv"),
        "--weights",
        str(tmp_path / "runs" / "tiny.safetensors"),
    ]
    assert main(line) == 0
    assert len((tmp_path / "b.csv").read_text().splitlines()) == 3
    assert main(words) == 2
    assert "exists already: --resume, or another --output" in capsys.readouterr().err
