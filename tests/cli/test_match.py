"""``flowmatch match``: files, messages, exit status, and errors."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from flowmatch.cli import main
from flowmatch.io import read_image, write_image
from flowmatch.matching.files import read_matches

ESSENTIAL = ["{a}", "{b}", "--geometry", "essential"]


@pytest.fixture
def pair(tmp_path, photo):
    for name, (y, x) in {"a": (0, 0), "b": (10, 20)}.items():
        crop = np.ascontiguousarray(photo[y : y + 200, x : x + 300])
        write_image(tmp_path / f"{name}.png", crop)
    return [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def test_two_images(pair, tmp_path, capsys):
    targets = [tmp_path / f"m{suffix}" for suffix in (".png", ".npz", ".csv", ".json")]
    words = [word for target in targets for word in ("-o", str(target))]
    assert main(["match", *pair, *words, "--keypoints", "300"]) == 0
    err = capsys.readouterr().err
    count, inliers = map(int, re.search(r"(\d+) matches .* (\d+) inliers of a homo", err).groups())
    assert 50 < inliers <= count <= 300
    assert read_image(targets[0]).shape == (200, 300 + 6 + 300, 3)
    matches = read_matches(targets[1])
    assert len(matches.matches) == count
    np.testing.assert_allclose(matches.matrix, [[1, 0, -20], [0, 1, -10], [0, 0, 1]], atol=0.1)
    assert len(targets[2].read_text().splitlines()) == count + 1
    assert len(json.loads(targets[3].read_text())["matches"]) == count


def test_a_mirrored_image(pair, tmp_path, capsys):
    mirrored = tmp_path / "mirrored.png"
    write_image(mirrored, np.ascontiguousarray(read_image(pair[1])[:, ::-1]))
    words = ["match", pair[0], str(mirrored), "--keypoints", "300", "--model", "rootsift"]
    assert main(words) == 1
    target = tmp_path / "m.npz"
    assert main([*words, "--mirror", "-o", str(target), "-o", str(tmp_path / "m.png")]) == 0
    expected = [[-1, 0, 319], [0, 1, -10], [0, 0, 1]]  # x becomes 299 - (x - 20)
    np.testing.assert_allclose(read_matches(target).matrix, expected, atol=0.1)
    capsys.readouterr()
    essential = ["--geometry", "essential", "--camera", "300,300,150,100"]
    assert main([*words, "--mirror", *essential]) == 2
    assert "no motion of a camera mirrors" in capsys.readouterr().err
    listed = ["match", str(tmp_path), "--all", "-o", str(tmp_path / "list"), "--mirror"]
    assert main(listed) == 2 and "--all takes no --mirror" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--max-side", "150"], []])
def test_transparent_pixels_are_not_matched(tmp_path, photo, words):
    for name, shift in (("a", 0), ("b", 30)):
        rgba = np.dstack([photo[:200, shift : shift + 300], np.full((200, 300), 255, np.uint8)])
        rgba[40:120, 100 - shift : 160 - shift] = 0  # a hole that moves with the scene
        rgba[130:180, 200:260] = 0  # and one that does not
        Image.fromarray(rgba).save(tmp_path / f"{name}.png")
    names = [str(tmp_path / f"{name}.png") for name in "ab"]
    (tmp_path / "pairs.txt").write_text("a.png b.png")
    assert main(["match", *names, "-o", str(tmp_path / "m.npz"), *words]) == 0
    listed = ["match", "--pairs", str(tmp_path / "pairs.txt"), "-o", str(tmp_path / "list")]
    assert main([*listed, "--geometry", "homography", *words]) == 0
    matches, same = (
        read_matches(path) for path in (tmp_path / "m.npz", tmp_path / "list/a.png&b.png.npz")
    )
    np.testing.assert_allclose(matches.matrix, [[1, 0, -30], [0, 1, 0], [0, 0, 1]], atol=0.15)
    np.testing.assert_array_equal(matches.keypoints0.xy, same.keypoints0.xy)
    x, y = matches.keypoints0.xy.T
    assert len(x) > 50
    assert not ((x > 99) & (x < 160) & (y > 39) & (y < 120)).any()
    assert not ((x > 199) & (x < 260) & (y > 129) & (y < 180)).any()


def test_masks(pair, tmp_path, capsys):
    masks, height, width = tmp_path / "masks", *read_image(pair[0]).shape[:2]
    masks.mkdir()
    mask = np.full((height, width), 255, np.uint8)
    mask[:, : width // 2] = 0
    name = pair[0].rsplit("/", 1)[1]
    write_image(masks / f"{name}.png", mask)
    target, words = tmp_path / "m.npz", ["--masks", str(masks), "--model", "rootsift"]
    assert main(["match", *pair, *words, "-o", str(target)]) == 0
    assert read_matches(target).keypoints0.xy[:, 0].min() > width // 2 - 1
    assert read_matches(target).keypoints1.xy[:, 0].min() < width // 2 - 1
    listed = ["match", str(tmp_path), "--pairs", str(tmp_path / "pairs.txt")]
    (tmp_path / "pairs.txt").write_text("\t".join(pair))
    assert main([*listed, *words, "-o", str(tmp_path / "list")]) == 0
    (file,) = (tmp_path / "list").iterdir()
    assert read_matches(file).keypoints0.xy[:, 0].min() > width // 2 - 1
    (masks / f"{name}.png").rename(masks / "other.png")
    assert main(["match", *pair, *words]) == 2 and "a mask of no photo" in capsys.readouterr().err


def test_geometry_and_descriptors(pair, capsys):
    for words, expected in (
        (["--geometry", "none", "--model", "sift"], r"keypoints, nothing was written \(-o FILE\)$"),
        (
            ["--geometry", "essential", "--camera", "300,300,150,100"],
            "of an essential matrix",
        ),
        (["--model", "orb", "--detector", "orb"], "inliers of a homography"),
    ):
        assert main(["match", *pair, "--keypoints", "200", *words]) == 0
        assert re.search(expected, capsys.readouterr().err.strip())


def test_filter(pair, tmp_path, capsys):
    words = ["--keypoints", "100", "--filter", "siam", "-o", str(tmp_path / "m.npz")]
    assert main(["match", *pair, *words, "--min-score", "0.2"]) == 0
    assert "inliers of a homography" in capsys.readouterr().err
    assert read_matches(tmp_path / "m.npz").scores.min() > 0.2


def test_published_weights(pair, shared_data, capsys):
    weights = shared_data / "interop" / "tfeat" / "tfeat-liberty.params"
    if not weights.is_file():
        pytest.skip("the published weights of TFeat (../shared/data/interop) are not here")
    words = ["--model", str(weights), "--keypoints", "200", "--device", "cpu"]
    assert main(["match", *pair, *words]) == 0
    assert "inliers of a homography" in capsys.readouterr().err


def test_list_with_errors_and_resume(pair, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("a.png b.png\na.png missing.png\n")
    out = tmp_path / "out"
    words = ["match", "--pairs", str(tmp_path / "list.txt"), "-o", str(out), "--keypoints", "200"]
    assert main([*words, "--colmap"]) == 0
    err = capsys.readouterr().err
    assert "failed: a.png missing.png:" in err
    assert f"1 pair matched, 1 failed; a geometry was found for 1, in {out}, with colmap/" in err
    assert (out / "colmap" / "database.db").is_file()
    assert (out / "colmap" / "matches.txt").read_text().startswith("a.png b.png\n")
    assert (out / "colmap" / "features" / "a.png.txt").is_file()
    assert main(words) == 0
    assert "0 pairs matched, 1 existed already, 1 failed" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert "1 pair matched, 1 failed" in capsys.readouterr().err
    (tmp_path / "list.txt").write_text("a.png missing.png\n")
    assert main(words) == 2
    assert "error: no pair of 1 can be matched" in capsys.readouterr().err


def test_lists_of_a_folder(pair, tmp_path, photo, capsys):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for k in range(4):
        crop = np.ascontiguousarray(photo[10 * k : 10 * k + 200, 20 * k : 20 * k + 300])
        write_image(folder / f"{k}.png", crop)
    words = ["-o", str(out), "--keypoints", "100", "--model", "rootsift"]
    assert main(["match", str(folder), "--sequential", "1", *words]) == 0
    assert "3 pairs matched; a geometry was found for 3" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == [
        f"{k}.png&{k + 1}.png.npz" for k in range(3)
    ]
    # The same pairs are kept.
    assert main(["match", "--all", str(folder), *words]) == 0
    err = capsys.readouterr().err
    assert "3 pairs matched, 3 existed already; a geometry was found for 6" in err


def test_pairs_of_an_index(tmp_path, photo, capsys):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for k, picture in enumerate((photo, photo[:, ::-1], data.coffee(), data.coffee()[:, ::-1])):
        write_image(folder / f"{k}.png", np.ascontiguousarray(picture))
    index = tmp_path / "index.safetensors"
    words = ["index", str(folder), "-o", str(index), "--model", "rootsift", "--words", "8"]
    assert main(words) == 0
    words = ["match", "--retrieval", str(index), "3", "-o", str(out), "--keypoints", "50"]
    assert main([*words, "--model", "rootsift"]) in (0, 1)
    assert "6 pairs matched" in capsys.readouterr().err


def test_a_list_without_a_geometry_is_status_1(tmp_path, capsys):
    for name in ("astronaut", "brick"):
        write_image(tmp_path / f"{name}.png", getattr(data, name)())
    words = ["match", str(tmp_path), "--all", "-o", str(tmp_path / "out"), "--keypoints", "300"]
    assert main([*words, "--model", "rootsift"]) == 1
    assert "1 pair matched; a geometry was found for 0" in capsys.readouterr().err


def test_a_detector_and_a_matcher_of_kornia(pair, tmp_path, capsys):
    KF = pytest.importorskip("kornia.feature", reason="kornia is not installed")
    weights = {"xfeat": KF.XFeat().net, "loftr": KF.LoFTR(None)}
    for name, network in weights.items():
        torch.save(network.state_dict(), tmp_path / f"{name}.pth")
    rest = ["--device", "cpu", "--max-side", "96", "-o", str(tmp_path / "m.npz")]
    loftr = ["--matcher", "loftr", "--matcher-weights", str(tmp_path / "loftr.pth")]
    xfeat = ["--detector", "xfeat", "--detector-weights", str(tmp_path / "xfeat.pth")]
    for words in (loftr, xfeat):
        assert main(["match", *pair, *words, *rest]) in (0, 1)
        assert " matches of " in capsys.readouterr().err
        assert len(read_matches(tmp_path / "m.npz").keypoints0.xy) >= 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected two images, or a list of pairs, got 0"),
        (["{a}"], "expected two images, or a list of pairs, got 1"),
        (["{a}", "missing.png"], "missing.png does not exist"),
        (["{a}", "{b}", "-o", "m.gif"], "m.gif: expected a name ending in one of .png"),
        # Before the images are read.
        (["{a}", "missing.png", "-o", "no/folder/m.png"], "there is no folder"),
        (
            ["{a}", "{b}", "--model", "surf"],
            "a descriptor must be one of rootsift, sift, orb, default",
        ),
        (["{a}", "{b}", "--model", "x.pth"], "x.pth does not exist"),
        (["{a}", "{b}", "--filter", "hardnet-half"], "a filter must be one of siam, 2ch"),
        (["{a}", "{b}", "--detector", "fast"], "detector must be one of sift, orb, grid"),
        (["{a}", "{b}", "--geometry", "affine"], "geometry must be one of"),
        (["{a}", "{b}", "--geometry", "essential"], "needs intrinsics"),
        ([*ESSENTIAL, "--camera", "1,2"], "a file of intrinsics, got '1,2'"),
        ([*ESSENTIAL, "--camera", "0,0,9,9"], "must have positive focal lengths"),
        ([*ESSENTIAL, "--camera", "9,9,nan,9"], "finite numbers, got '9,9,nan,9'"),
        (["{a}", "{b}", "--camera", "9,9,9,9"], "--camera needs --geometry essential"),
        (["{a}", "{b}", "--min-score", "0.1"], "--min-score needs --filter"),
        (["--pairs", "list.txt", "-o", "out", "--min-score", "0.1"], "--min-score needs --filter"),
        (["{a}", "{b}", "--colmap"], "--root, --colmap, --overwrite need a list"),
        (["."], ". is a folder: --all, --sequential N or --pairs FILE chooses its pairs"),
        (["--all", "-o", "out"], "--all needs a FOLDER of images"),
        ([".", "--all"], "--all needs one -o FOLDER"),
        (["missing", "--all", "-o", "out"], "there is no folder missing"),
        ([".", "--all", "--sequential", "2", "-o", "out"], "one of --all and --sequential"),
        ([".", "--all", "-o", "out", "--camera", "9,9,9,9"], "--camera with --colmap only"),
        (["--retrieval", "none.safetensors", "3", "-o", "out"], "none.safetensors does not exist"),
        (["{a}", "{b}", "--max-side", "0"], "max_side must be positive, got 0"),
        (["{a}", "{b}", "--matcher", "glue"], "matcher must be one of nearest, lightglue, loftr"),
        (["{a}", "{b}", "--matcher-weights", "w.pth"], "weights of the matcher are for lightglue"),
        (
            ["{a}", "{b}", "--detector", "disk", "--detector-weights", "w.pth"],
            "w.pth does not exist",
        ),
        (
            [".", "--all", "-o", "out", "--matcher", "loftr", "--colmap"],
            "--colmap needs the same keypoints of an image in all pairs",
        ),
        (["--pairs", "list.txt"], "--pairs needs one -o FOLDER"),
        (["--pairs", "list.txt", "-o", "out"], "list.txt does not exist"),
        (["{a}", "{b}", "--pairs", "list.txt"], "--pairs takes one folder of images, got 2 paths"),
    ],
)
def test_bad_input_is_one_line(pair, monkeypatch, tmp_path, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    names = dict(zip(("{a}", "{b}"), pair, strict=True))
    assert main(["match", *(names.get(word, word) for word in words)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_unrelated_photos_are_status_1(tmp_path, capsys):
    for name in ("astronaut", "coffee", "brick"):
        write_image(tmp_path / f"{name}.png", getattr(data, name)())
    output = tmp_path / "m.npz"
    for second in ("coffee", "brick"):
        pair = [str(tmp_path / f"{name}.png") for name in ("astronaut", second)]
        assert main(["match", *pair, "--model", "rootsift", "-o", str(output)]) == 1
        err = capsys.readouterr().err
        assert "no homography agrees with them" in err or "no more than chance explains" in err
        assert output.is_file()


def test_the_folder_of_a_list_is_no_file(tmp_path, capsys):
    (tmp_path / "list.txt").write_text("a.png b.png\n")
    (tmp_path / "out").write_text("")
    words = ["match", "--pairs", str(tmp_path / "list.txt"), "-o", str(tmp_path / "out")]
    assert main(words) == 2
    assert "--output must be a folder" in capsys.readouterr().err
