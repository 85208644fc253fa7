"""Training runs: messages after Ctrl-C."""

import pytest
import typer

from flowmatch.cli._run import resumable


def test_the_checkpoint_is_named(tmp_path, capsys):
    file = tmp_path / "tiny.pt"
    for message in ("no checkpoint was written yet", f"--resume continues from {file}"):
        with pytest.raises(typer.Exit) as end, resumable(file):
            raise KeyboardInterrupt
        assert end.value.exit_code == 130
        assert capsys.readouterr().err == f"stopped; {message}\n"
        file.touch()
