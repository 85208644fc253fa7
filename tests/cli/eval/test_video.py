"""``flowmatch eval video``: scores of weights that ``train video`` wrote."""

import json

from flowmatch.cli import main
from flowmatch.io import read_image


def test_train_then_eval(clip, tmp_path, capsys):
    weights, picture = tmp_path / "tiny.safetensors", tmp_path / "results.png"
    words = ["train", "video", str(clip), "--recipe", "tiny", "-o", str(tmp_path)]
    assert main(words) == 0
    error = capsys.readouterr().err
    assert "of 2 tracks" in error and "min left" in error and "weights in" in error
    assert main(words) == 2
    assert "--resume, or another --output" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0  # from the patches and the checkpoint
    assert main([*words, "--resume", "--frames", "2:"]) == 2
    assert "mined from other videos" in capsys.readouterr().err

    words = ["eval", "video", str(clip), "--recipe", "tiny", "--weights", str(weights)]
    words += ["--gap", "5", "--gap", "10"]
    assert main([*words, "--picture", str(picture)]) == 0
    out = capsys.readouterr().out
    for word in ("pixels", "colour histogram", "initialisation", "trained", "chance", "2 tracks"):
        assert word in out
    assert read_image(picture).shape[1] == 8 + 9 * 148
    assert main([*words, "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows["pixels"]["10"]["R@1"] == 1.0 and 0 <= rows["trained"]["5"]["mAP"] <= 1

    # The clip is too short for one gap, which does not take the scores of the others with it.
    words = ["eval", "video", str(clip), "--recipe", "tiny", "--weights", str(weights)]
    words += ["--gap", "10", "--gap", "20"]
    assert main([*words, "--picture", str(picture)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "R@1, gap 20" in out and "nan" not in out and "0 of 0 tracks at gap 20" in out
    assert main([*words, "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)["pixels"]
    assert rows["10"]["R@1"] == 1.0 and rows["20"] == {"R@1": None, "mAP": None}
    assert main([*words[:-4], "--gap", "20"]) == 2
    assert "no track has patches 20 frames apart" in capsys.readouterr().err
