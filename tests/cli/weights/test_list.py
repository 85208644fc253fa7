"""``flowmatch weights list``: one line for each set of weights."""

from flowmatch.catalogue import available
from flowmatch.cli import main


def test_all_tasks_are_listed(capsys):
    assert main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(available())
    assert lines[0].startswith("recurrent-pyramid (flow, default): RecurrentPyramid")
    for start in ("hardnet-half (matching", "spin (registration", "align-fit (align"):
        assert any(line.startswith(start) for line in lines)
