"""Lists of pairs: one description per image, one file per pair, reported errors, resumed runs."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

from flowmatch.io import write_image
from flowmatch.matching import pair_list as module
from flowmatch.matching.colmap import write_colmap
from flowmatch.matching.files import read_matches
from flowmatch.matching.match import match_images
from flowmatch.matching.methods import load_methods
from flowmatch.matching.networks import HardNet
from flowmatch.matching.options import MatchOptions
from flowmatch.matching.pair_list import Pair, match_pairs, model_digest, read_pairs
from flowmatch.matching.store import save_weights

OPTIONS = MatchOptions(keypoints=200)


@pytest.fixture
def images(tmp_path, photo):
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    shifted = {"a.png": (0, 0), "b.png": (10, 20), "more/c.png": (30, 5)}
    for name, (y, x) in shifted.items():
        write_image(folder / name, np.ascontiguousarray(photo[y : y + 200, x : x + 300]))
    return folder


@pytest.fixture
def described(monkeypatch):
    """Shapes of the images that were described."""
    shapes = []
    real = module.extract_features
    monkeypatch.setattr(
        module,
        "extract_features",
        lambda image, *args: shapes.append(image.shape) or real(image, *args),
    )
    return shapes


def run(pairs, images, output, options=OPTIONS, **rest):
    return match_pairs(pairs, images, output, model="rootsift", options=options, **rest)


ALL = [Pair("a.png", "b.png"), Pair("a.png", "more/c.png"), Pair("b.png", "more/c.png")]


def test_each_image_is_described_once(images, tmp_path, described):
    counts = []
    report = run(ALL, images, tmp_path / "out", progress=lambda *args: counts.append(args))
    assert (report.computed, report.kept, report.failed) == (3, 0, [])
    assert counts == [("match", 1, 3), ("match", 2, 3), ("match", 3, 3)]
    assert len(described) == 3
    matches = read_matches(tmp_path / "out" / ALL[0].file())
    np.testing.assert_allclose(matches.matrix, [[1, 0, -20], [0, 1, -10], [0, 0, 1]], atol=0.1)


def test_a_pair_equals_match_images(images, tmp_path, photo):
    run(ALL[:1], images, tmp_path / "out")
    result = read_matches(tmp_path / "out" / ALL[0].file())
    expected = match_images(
        photo[:200, :300], photo[10:210, 20:320], model="rootsift", options=OPTIONS
    )
    np.testing.assert_array_equal(result.matches, expected.matches)
    np.testing.assert_array_equal(result.inliers, expected.inliers)


def test_the_cache_is_bounded(images, described):
    methods = load_methods("rootsift", "cpu", OPTIONS)
    cache = module._FeatureCache(methods, images, OPTIONS, capacity=2)
    for name in ("a.png", "b.png", "a.png", "more/c.png", "a.png", "b.png"):
        cache.features(name)
    assert len(described) == 4
    assert list(cache.entries) == ["a.png", "b.png"]


def test_an_interrupted_run_continues(images, tmp_path, described):
    out = tmp_path / "out"
    run(ALL[:2], images, out)
    (out / ALL[1].file()).write_bytes(b"PK, cut off")
    described.clear()
    report = run(ALL, images, out)
    assert (report.computed, report.kept) == (2, 1)
    assert run(ALL, images, out).kept == 3
    # Pairs are computed again with other options.
    other = MatchOptions(keypoints=100)
    assert run(ALL, images, out, other).computed == 3
    assert len(read_matches(out / ALL[0].file()).keypoints0.xy) == 100
    assert run(ALL, images, out, other, overwrite=True).computed == 3
    assert sorted(path.name for path in out.iterdir()) == sorted(pair.file() for pair in ALL)


def test_pairs_of_replaced_images_are_computed_again(images, tmp_path, photo):
    out, other = tmp_path / "out", tmp_path / "other"
    run(ALL[:1], images, out)
    other.mkdir()
    for name, x in (("a.png", 0), ("b.png", 40)):
        write_image(other / name, np.ascontiguousarray(photo[:200, x : x + 300]))
    assert run(ALL[:1], other, out).computed == 1
    result = read_matches(out / ALL[0].file())
    np.testing.assert_allclose(result.matrix[:2, 2], [-40, 0], atol=0.2)
    assert run(ALL[:1], other, out).kept == 1


def test_masks_are_found_and_remembered(images, tmp_path, described):
    """A new mask changes the matches of its image, and of no other pair."""
    masks = tmp_path / "masks"
    (masks / "more").mkdir(parents=True)
    black_left = np.full((200, 300), 255, np.uint8)
    black_left[:, :150] = 0
    write_image(masks / "a.png", black_left)
    run(ALL[:2], images, tmp_path / "out", masks=masks)
    matches = read_matches(tmp_path / "out/a.png&b.png.npz")
    assert len(matches.keypoints0.xy) > 20 and matches.keypoints0.xy[:, 0].min() > 149
    assert matches.keypoints1.xy[:, 0].min() < 100
    assert len(described) == 3
    assert run(ALL[:2], images, tmp_path / "out", masks=masks).kept == 2
    write_image(masks / "more/c.png.png", black_left)
    report = run(ALL[:2], images, tmp_path / "out", masks=masks)
    assert (report.kept, report.computed) == (1, 1)
    matches = read_matches(tmp_path / "out/a.png&more%2Fc.png.npz")
    assert matches.keypoints1.xy[:, 0].min() > 149
    with pytest.raises(FileNotFoundError, match="must be a folder of masks"):
        run(ALL[:2], images, tmp_path / "out", masks=masks / "a.png")


def test_a_pair_that_fails_does_not_stop_the_others(images, tmp_path):
    (images / "broken.png").write_bytes(b"not a picture")
    listed = [Pair("a.png", "broken.png"), Pair("missing.png", "a.png"), ALL[0]]
    report = run(listed, images, tmp_path / "out")
    assert report.computed == 1
    (first, reason), (second, other) = report.failed
    assert (first, second) == (listed[0], listed[1])
    assert "broken.png" in reason
    assert "missing.png does not exist" in other


def test_colmap(images, tmp_path):
    out = tmp_path / "out"
    run(ALL[:2], images, out)
    path = write_colmap(tmp_path / "colmap", out, ALL, images)
    blocks = (path.parent / "matches.txt").read_text().strip().split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == ["a.png b.png", "a.png more/c.png"]
    result = read_matches(out / ALL[0].file())
    rows = [f"{i} {j}" for i, j in result.matches[result.inliers]]
    assert blocks[0].splitlines()[1:] == rows
    files = [p.relative_to(tmp_path / "colmap") for p in (tmp_path / "colmap").rglob("*.txt")]
    assert sorted(map(str, files)) == [
        "features/a.png.txt", "features/b.png.txt", "features/more/c.png.txt", "matches.txt",
    ]  # fmt: skip
    for name in ("../a.png", "/a.png"):
        with pytest.raises(ValueError, match="have to be relative to the folder of the images"):
            write_colmap(tmp_path / "colmap", out, [Pair("a.png", name)], images)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_colmap_sees_stored_pixels(tmp_path, photo, orientation):
    """Keypoints are at the same places of the stored picture, whatever EXIF says."""
    for folder, tag in (("upright", 1), ("turned", orientation)):
        (tmp_path / folder).mkdir()
        exif = PIL.Image.Exif()
        exif[0x112] = tag
        for name, x in (("a.png", 0), ("b.png", 20)):
            crop = PIL.Image.fromarray(photo[:200, x : x + 300])
            crop.save(tmp_path / folder / name, exif=exif)
    rows = {}
    for folder in ("upright", "turned"):
        out = tmp_path / f"{folder}-out"
        options = replace(
            OPTIONS, detector="orb"
        )  # the same points in a picture turned or mirrored
        run(ALL[:1], tmp_path / folder, out, options)
        write_colmap(out / "colmap", out, ALL[:1], tmp_path / folder)
        path = out / "colmap" / "features" / "a.png.txt"
        rows[folder] = np.loadtxt(path, skiprows=1, usecols=(0, 1, 2, 3))
    upright, turned = rows["upright"], rows["turned"]
    assert (turned[:, :2] <= (300, 200)).all()
    distance = np.linalg.norm(upright[:, None, :3] - turned[None, :, :3], axis=-1)
    assert (distance.min(axis=1) < 0.01).mean() > 0.9
    same = np.argwhere(distance < 0.01)
    angle = upright[same[:, 0], 3] - turned[same[:, 1], 3]
    assert np.median(np.abs((angle + np.pi) % (2 * np.pi) - np.pi)) < 0.01


def test_names_that_colmap_cannot_read(images, tmp_path):
    out = tmp_path / "out"
    for name in ("two words.png", "a\u000bb.png", "#1.png", "./#1.png"):
        with pytest.raises(ValueError, match="COLMAP cannot read names with white space or with #"):
            write_colmap(tmp_path / "colmap", out, [Pair(name, "a.png")], images)
    listed = [Pair("./a.png", "more/.//c.png"), Pair("a.png", "more/c.png")]
    run(listed, images, out)
    path = write_colmap(tmp_path / "colmap", out, listed, images)
    assert [
        line for line in (path.parent / "matches.txt").read_text().splitlines() if "png" in line
    ] == ["a.png more/c.png"]


# ---- Lists -------------------------------------------------------------------------------------


def test_lists(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("# a comment\n\na.jpg b.jpg\n two words.jpg\tc.jpg\na.jpg b.jpg\n")
    assert read_pairs(path) == [("a.jpg", "b.jpg"), ("two words.jpg", "c.jpg")]


def test_names_are_as_long_as_file_systems_allow(tmp_path):
    """They count bytes, and letters of any language stay readable."""
    names = "北京故宫博物院全景照片一.jpg", "панорама\u3000зимы.jpg"
    path = tmp_path / "pairs.txt"
    path.write_text(f"{names[0]} {names[1]}\r\n{'я' * 120}.jpg {'я' * 119}.jpg\n", encoding="utf-8")
    pairs = read_pairs(path)
    assert pairs[0] == names
    assert pairs[0].file() == f"{names[0]}&{names[1].replace(chr(0x3000), '%E3%80%80')}.npz"
    files = {
        Pair("я" * n + ".jpg", "я" * m + ".jpg").file() for n in (119, 120) for m in (119, 120)
    }
    assert len(files) == 4
    for file in files:
        assert len(file.encode()) <= 255
        (tmp_path / file).write_bytes(b"")


def test_no_two_pairs_share_a_file():
    names = ["a", "a&b", "a%26b", "b", "a/b", "a%2Fb", "A", "a b"]
    files = {Pair(a, b).file() for a in names for b in names}
    assert len(files) == len(names) ** 2
    assert not any("/" in file for file in files)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a.jpg\n", r"pairs\.txt:1: expected two names, .* got 'a\.jpg'"),
        (b"a b\na b c\n", r"pairs\.txt:2: expected two names"),
        (b"\n# nothing\n", "got no pair"),
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
        (b"a" * 300 + b" b\n", "names are too long"),
    ],
)
def test_invalid_lists(tmp_path, content, reason):
    path = tmp_path / "pairs.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_pairs(path)


def test_options_are_checked_first(images, tmp_path):
    options = MatchOptions(geometry="essential", intrinsics=(np.eye(3), np.eye(3)))
    with pytest.raises(ValueError, match="has no intrinsics for essential matrices"):
        run(ALL, images, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_pairs_of_a_list_are_filtered(images, tmp_path, photo):
    def dim(first, second):
        return 0.5 - first.mean(dim=(1, 2, 3))

    dim.patch_size = 16
    options = replace(OPTIONS, filter_model=dim, min_score=0.05)
    out = tmp_path / "out"
    report = run(ALL[:1], images, out, options)
    assert report.computed == 1
    result = read_matches(out / ALL[0].file())
    views = photo[:200, :300], photo[10:210, 20:320]
    expected = match_images(*views, model="rootsift", options=options)
    np.testing.assert_array_equal(result.matches, expected.matches)
    np.testing.assert_array_equal(result.scores, expected.scores)
    # Without the filter, or with another threshold, they are computed again.
    assert run(ALL[:1], images, out, options).kept == 1
    assert run(ALL[:1], images, out).computed == 1


def test_digests_change_with_the_weights(tmp_path):
    network = HardNet(width=0.25)
    digest = model_digest(network)
    assert digest.startswith("HardNet ")
    assert digest == model_digest(network)
    with torch.no_grad():
        network.features[0].weight[0, 0, 0, 0] += 1
    assert model_digest(network) != digest
    path = tmp_path / "w.safetensors"
    save_weights(path, network, "hardnet", {"width": 0.25})
    assert model_digest(str(path)) == model_digest(path) != model_digest("hardnet-half")
    assert model_digest("default") == model_digest("hardnet-half")
    assert model_digest("orb") == "orb"
    with pytest.raises(ValueError, match="no weights named 'surf'"):
        model_digest("surf")
