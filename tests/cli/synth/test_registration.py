"""``flowmatch synth registration``: a sheet of scans."""

from flowmatch.cli import main
from flowmatch.io import read_image


def test_a_row_for_each_pair(tmp_path, capsys):
    heights = []
    for count in ("1", "2"):
        assert main(["synth", "registration", "-o", str(tmp_path / "s.png"), "--count", count]) == 0
        heights.append(read_image(tmp_path / "s.png").shape[0])
    assert heights[1] > 1.8 * heights[0]
    assert "2 pairs in" in capsys.readouterr().err
