"""``flowmatch info``: versions, kernels and weights."""

from flowmatch.cli import main


def test_info(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "flowmatch 0.1.0" in text
    assert any("correlation" in line and "compiled" in line for line in text.splitlines())
    assert "pyramid (flow, default): " in text
    assert "spin (registration" in text
    assert "align-fit (align" in text
