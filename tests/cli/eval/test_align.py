"""``flowmatch eval align``: table and JSON."""

import json

from flowmatch.cli import main
from flowmatch.io import read_image, write_image


def test_table_and_json(turned_pair, align_weights, capsys):
    photos = turned_pair / "photos"
    photos.mkdir()
    write_image(photos / "a.png", read_image(turned_pair / "a.png"))
    words = ["eval", "align", str(photos), "--count", "2", "--weights", str(align_weights)]
    assert main(words) == 0
    out = capsys.readouterr().out
    for text in ("flowmatch", "identity", "sift-affine", "PCK@0.1 box", "2 pairs of 240 x 240"):
        assert text in out
    assert main([*words, "--json", "-", "--appearance", "0"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pairs"] == 2
    methods = result["methods"]
    assert methods["identity"]["found"] == 1
    assert methods["sift-affine"]["distance"] < methods["identity"]["distance"]
    assert main(["eval", "align", str(turned_pair / "none")]) == 2
