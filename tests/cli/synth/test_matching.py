"""``flowmatch synth matching``: a sheet of patches."""

from flowmatch.cli import main
from flowmatch.io import read_image


def test_rows_of_patches(tmp_path):
    sheet = tmp_path / "sheet.png"
    words = ["--count", "2", "--patches", "3", "--size", "16"]
    assert main(["synth", "matching", "-o", str(sheet), *words]) == 0
    assert read_image(sheet).shape == (2 * 2 * 16, 3 * 16, 3)
