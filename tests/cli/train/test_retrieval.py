"""``flowmatch train retrieval``: weights by which an index is made and searched."""

from flowmatch.cli import main
from flowmatch.retrieval.training.recipes import RECIPES, RetrievalRecipe
from flowmatch.training import Schedule


def test_the_weights_make_an_index(views, capsys, monkeypatch):
    tiny = RetrievalRecipe(Schedule(2, batch=2), rounds=1, negatives=1, size=32)
    monkeypatch.setitem(RECIPES, "tiny", tiny)
    folder, runs, index = views / "pictures", views / "runs", views / "i.safetensors"
    words = ["train", "retrieval", str(folder), "-o", str(runs), "--recipe", "tiny"]
    assert main([*words, "--workers", "0"]) == 0
    err = capsys.readouterr().err
    assert "3 verified pairs among 6 pictures of 3 things" in err
    assert "round 1/1  step 2/2" in err
    assert main(words) == 2
    assert "exists already: --resume" in capsys.readouterr().err
    weights = ["--model", str(runs / "tiny.safetensors")]
    assert main(["index", str(folder), "-o", str(index), *weights]) == 0
    query = str(folder / "chelsea-b.png")
    capsys.readouterr()
    assert main(["search", query, "-i", str(index), "-k", "2", *weights]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("chelsea-b.png")
    assert main(["search", query, "-i", str(index)]) == 2
    assert "give those weights" in capsys.readouterr().err
    assert main(["train", "retrieval", str(folder), "-o", "o", "--recipe", "no"]) == 2
