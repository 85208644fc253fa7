"""``flowmatch train video``: messages about bad input."""

import pytest

from flowmatch.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "magic"], "--recipe must be one of video-small"),
        (["--frames", "5"], "--frames must be FIRST:STOP"),
        (["--flow", "magic"], "--flow must be network or dis, got 'magic'"),
        (["--frames", "0:8"], "no moving object could be tracked for long enough"),
    ],
)
def test_bad_input_is_an_error(words, message, clip, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "video", str(clip), "--recipe", "tiny", "-o", out, *words]) == 2
    assert message in capsys.readouterr().err
