"""``flowmatch synth flow``: a sheet, rendered in two ways."""

import numpy as np

from flowmatch.cli import main
from flowmatch.io import read_image


def test_both_renderers_draw_the_same_sheet(tmp_path):
    """Both renderers draw the same pairs."""
    words = ["synth", "flow", "--count", "2", "-o"]
    assert main([*words, str(tmp_path / "a.png")]) == 0
    assert main([*words, str(tmp_path / "b.png"), "--render", "device", "--device", "cpu"]) == 0
    one, other = (read_image(tmp_path / name) for name in ("a.png", "b.png"))
    height, width, _ = one.shape
    assert height > 2 * 192
    assert width > 4 * 256
    assert np.abs(one.astype(int) - other).mean() < 1
    assert main([*words, str(tmp_path / "c.png"), "--render", "gpu"]) == 2


def test_a_missing_folder_of_photographs_is_an_error(tmp_path, capsys):
    assert main(["synth", "flow", "-o", str(tmp_path / "x.png"), "--photos", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
