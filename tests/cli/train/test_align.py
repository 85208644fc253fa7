"""``flowmatch train align``: weights that align."""

from flowmatch.align.recipes import RECIPES, AlignRecipe
from flowmatch.cli import main
from flowmatch.training import Schedule
from tests.cli.conftest import TINY_ALIGN


def test_the_weights_align(turned_pair, monkeypatch, capsys):
    recipe = AlignRecipe("align", Schedule(2, batch=2), TINY_ALIGN, {"size": 88})
    monkeypatch.setitem(RECIPES, "tiny", recipe)
    words = ["train", "align", "--recipe", "tiny", "--photos", str(turned_pair), "--workers", "0"]
    words += ["-o", str(turned_pair / "runs")]
    assert main(words) == 0
    assert "step 2/2" in capsys.readouterr().err
    pair = [str(turned_pair / name) for name in ("a.png", "b.png", "o.png")]
    trained = turned_pair / "runs" / "tiny.safetensors"
    assert main(["align", *pair[:2], "-o", pair[2], "--weights", str(trained)]) == 0
    assert main(words) == 2
    assert "exists already: --resume, or another --output" in capsys.readouterr().err
    assert main(["train", "align", "--recipe", "no", *words[4:]]) == 2
    assert "--recipe must be one of" in capsys.readouterr().err
