"""``flowmatch index`` and ``flowmatch search``: a changed copy is found among other pictures."""

import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest
from skimage import data

from flowmatch._opencv import cv2
from flowmatch.cli import main
from flowmatch.io import read_image, write_image
from flowmatch.matching.pair_list import read_pairs


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrieval")
    (folder / "all").mkdir()
    for name in ("chelsea", "astronaut", "coffee", "rocket", "camera", "coins", "page"):
        write_image(folder / "all" / f"{name}.png", getattr(data, name)())
    (folder / "all" / "broken.png").write_bytes(b"nothing")
    words = ["index", str(folder / "all"), "-o", str(folder / "i.safetensors")]
    words += ["--model", "rootsift"]
    assert main([*words, "--words", "16", "--keypoints", "300"]) == 0
    return folder


@pytest.fixture(scope="module")
def query(indexed):
    turn = cv2.getRotationMatrix2D((256, 256), 30, 0.9)
    picture = cv2.warpAffine(data.astronaut(), turn, (512, 512), borderMode=cv2.BORDER_REFLECT)
    write_image(indexed / "q.png", np.ascontiguousarray(picture[80:400, 100:420]))
    return str(indexed / "q.png")


def test_the_copy_is_found(indexed, query, capsys):
    targets = [indexed / name for name in ("sheet.png", "found.json", "found.csv")]
    words = [word for target in targets for word in ("-o", str(target))]
    index = ["-i", str(indexed / "i.safetensors")]
    assert main(["search", query, *index, *words, "--verify", "-k", "5"]) == 0
    out, err = capsys.readouterr()
    first, second = (line.split("\t") for line in out.splitlines()[:2])
    assert first[2] == "astronaut.png"
    assert float(first[0]) > float(second[0]) + 0.1
    assert int(first[1]) > 30 and int(second[1]) < 12
    assert "5 results" in err
    assert read_image(targets[0]).shape == (2 * 266 + 8, 4 * 248 + 8, 3)
    assert json.loads(targets[1].read_text())["results"][0]["name"] == "astronaut.png"
    assert targets[2].read_text().splitlines()[1].startswith("1,astronaut.png,")
    for more in (["--expand", "1"], ["--augment-index", "1"], ["--exact"]):
        assert main(["search", query, *index, "-k", "2", *more]) == 0
        assert capsys.readouterr().out.splitlines()[0].endswith("\t\tastronaut.png")


def test_results_are_pairs_for_match(indexed, query, capsys):
    pairs = indexed / "pairs.txt"
    index = ["-i", str(indexed / "i.safetensors"), "-k", "2", "-o", str(pairs)]
    assert main(["search", str(indexed / "all" / "coffee.png"), *index]) == 0
    assert [pair.first for pair in read_pairs(pairs)] == ["coffee.png"]  # not with itself
    assert main(["search", query, *index]) == 0
    assert tuple(read_pairs(pairs)[0]) == (query, "astronaut.png")
    capsys.readouterr()


def test_duplicates(indexed, capsys, tmp_path):
    index = ["-i", str(indexed / "i.safetensors")]
    assert main(["search", "--duplicates", *index]) == 1
    assert "0 pairs of copies among 7 pictures" in capsys.readouterr().err
    (tmp_path / "all").mkdir()
    for picture in (indexed / "all").glob("c*.png"):
        shutil.copy(picture, tmp_path / "all")
    write_image(tmp_path / "all" / "again.jpg", data.chelsea())
    index = ["-i", str(tmp_path / "i.safetensors")]
    words = ["index", str(tmp_path / "all"), "-o", index[1], "--model", "rootsift"]
    assert main([*words, "--words", "16", "--keypoints", "300"]) == 0
    capsys.readouterr()
    targets = [tmp_path / "d.csv", tmp_path / "d.txt"]
    more = [word for target in targets for word in ("-o", str(target))]
    assert main(["search", "--duplicates", *index, *more]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("1.00\t0.99") and out.endswith("\tagain.jpg\tchelsea.png\n")
    assert "1 pair of copies among 5 pictures" in err
    header, row = targets[0].read_text().splitlines()
    assert header == "first,second,overlap,correlation"
    assert row.startswith("again.jpg,chelsea.png,")
    assert [tuple(pair) for pair in read_pairs(targets[1])] == [("again.jpg", "chelsea.png")]


def test_a_picture_or_duplicates(indexed, query, capsys):
    index = ["-i", str(indexed / "i.safetensors")]
    for words in ([], [query, "--duplicates"]):
        assert main(["search", *words, *index]) == 2
        assert "expected either a PICTURE or --duplicates" in capsys.readouterr().err
    assert main(["search", "--duplicates", *index, "-o", str(indexed / "d.png")]) == 2
    assert "d.png: expected a name ending in one of .csv, .txt" in capsys.readouterr().err


def test_approximate_needs_faiss(indexed, query, capsys, monkeypatch):
    index = ["-i", str(indexed / "i.safetensors"), "-k", "1", "--approximate"]
    if importlib.util.find_spec("faiss"):
        assert main(["search", query, *index]) == 0
        assert capsys.readouterr().out.splitlines()[0].endswith("\t\tastronaut.png")
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert main(["search", query, *index]) == 2
    assert "approximate search needs faiss: pip install faiss-cpu" in capsys.readouterr().err


def test_update_says_what_it_did(indexed, capsys):
    words = ["index", str(indexed / "all"), "-o", str(indexed / "i.safetensors")]
    words += ["--model", "rootsift"]
    assert main([*words, "--words", "16", "--keypoints", "300"]) == 0
    err = capsys.readouterr().err
    assert "0 pictures described, 8 known already" in err
    assert "failed: broken.png: " in err
    assert main(words) == 2
    assert "was made by 'vlad rootsift words=16" in capsys.readouterr().err


def test_bad_input_is_one_line(indexed, query, tmp_path, capsys):
    index = ["-i", str(indexed / "i.safetensors")]
    write_image(tmp_path / "blank.png", np.zeros((50, 60, 3), np.uint8))
    for words, expected in (
        (["search", query, "-i", str(tmp_path / "none.safetensors")], "none.safetensors"),
        (["search", query, "-i", query], "not a whole .safetensors file"),
        (["search", query, *index, "-o", "found.tif2"], "expected a name ending in"),
        (["search", "missing.png", *index, "-o", "none/found.csv"], "there is no folder none"),
        (["search", str(tmp_path / "blank.png"), *index], "nothing in the query"),
        (["index", str(tmp_path / "none")], "no folder"),
        (["index", str(tmp_path), "-o", str(tmp_path / "i.npz")], "must end in .safetensors"),
    ):
        assert main(words) == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ") and expected in line


def test_nothing_verified_is_status_1(indexed, tmp_path, capsys):
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (40, 40, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    write_image(tmp_path / "noise.png", texture)
    words = ["search", str(tmp_path / "noise.png"), "-i", str(indexed / "i.safetensors"), "-k", "3"]
    assert main([*words, "--verify"]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert "no result has" in err
    assert main(words) == 0


def test_an_index_by_the_network_that_ships(views, capsys):
    folder, index = views / "pictures", views / "i.safetensors"
    words = ["--words", "8", "--keypoints", "40"]
    assert main(["index", str(folder), "-o", str(index), *words]) == 0
    query = str(folder / "coffee-b.png")
    capsys.readouterr()
    assert main(["search", query, "-i", str(index), "-k", "1"]) == 0
    assert capsys.readouterr().out.endswith("coffee-b.png\n")
    assert main(["search", query, "-i", str(index), "--model", "rootsift"]) == 2
    assert "was made with 'hardnet-half.safetensors " in capsys.readouterr().err
