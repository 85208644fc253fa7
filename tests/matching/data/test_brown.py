"""Brown's patches: reading a small set, its test recomputed by a plain loop, training on it."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from flowmatch.cli import main
from flowmatch.io import write_image
from flowmatch.matching.data.brown import BrownPatches, BrownSamples, compare_pairs
from flowmatch.matching.synthetic.pairs import SyntheticPatches
from flowmatch.matching.synthetic.pool import PatchMixture
from flowmatch.matching.training.recipes import RECIPES
from flowmatch.metrics import fpr_at_recall

COUNT = 300  # patches: one full file and a part of another
POINTS = np.repeat(np.arange(100), 3)[np.random.default_rng(1).permutation(COUNT)]


@pytest.fixture(scope="module")
def patches():
    """Three views of each point: one coarse pattern, with noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 200, (100, 8, 8))[POINTS]
    return np.kron((coarse + rng.normal(size=coarse.shape) * 12).round(), np.ones((8, 8)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, patches):
    root = tmp_path_factory.mktemp("liberty")
    for number in range(2):
        mosaic = np.zeros((1024, 1024), np.uint8)
        for k, patch in enumerate(patches[256 * number : 256 * (number + 1)]):
            y, x = divmod(k, 16)
            mosaic[64 * y : 64 * y + 64, 64 * x : 64 * x + 64] = patch
        write_image(root / f"patches{number:04d}.bmp", mosaic)
    (root / "info.txt").write_text("".join(f"{point} 0\n" for point in POINTS))
    rng = np.random.default_rng(2)
    lines = []
    for k in range(120):
        a = int(rng.integers(COUNT))
        same = np.flatnonzero((POINTS[a] == POINTS) == (k % 2 == 0))
        b = int(rng.choice(same[same != a]))
        lines.append(f"{a} {POINTS[a]} 0 {b} {POINTS[b]} 0 0\n")
    (root / "m50_60_60_0.txt").write_text("".join(lines))
    return root


class Pixels:
    """Descriptor: the gray values of a patch."""

    patch_size, dim = 16, 256

    def __call__(self, patches):
        return patches.flatten(1)


class Difference:
    """Comparator: minus the distance of the gray values."""

    patch_size = 64

    def __call__(self, first, second):
        return -(first - second).flatten(1).norm(dim=1)


def test_patches(folder, patches):
    brown = BrownPatches(folder)
    assert len(brown) == COUNT
    np.testing.assert_array_equal(brown.points, POINTS)
    for copy in (brown, pickle.loads(pickle.dumps(brown))):
        which = np.array([299, 0, 255, 256, 17])
        np.testing.assert_array_equal(copy.read(which), patches[which])
    with pytest.raises(IndexError, match="there are 300 patches, got 0 to 300"):
        brown.read(np.array([0, 300]))


def test_false_positives_are_those_of_a_plain_loop(folder, patches):
    brown = BrownPatches(folder)
    pairs = brown.pairs()
    alike, different = [], []
    for line in (folder / "m50_60_60_0.txt").read_text().splitlines():
        a, p, _, b, q, *_ = map(int, line.split())
        far = np.linalg.norm(patches[a] - patches[b]) / 255
        (alike if p == q else different).append(far)
    threshold = sorted(alike)[int(np.ceil(0.95 * len(alike))) - 1]
    expected = sum(far <= threshold for far in different) / len(different)
    scores = compare_pairs(Difference(), brown, pairs)
    np.testing.assert_allclose(np.sort(-scores[pairs.same]), np.sort(alike), rtol=1e-5)
    rate = fpr_at_recall(scores[pairs.same], scores[~pairs.same])
    assert rate == pytest.approx(expected)
    # Squares of 4 pixels stay constant when reduced, so that distances are a quarter.
    described = compare_pairs(Pixels(), brown, pairs)
    np.testing.assert_allclose(described, scores / 4, atol=0.02)
    assert compare_pairs("sift", brown, pairs)[pairs.same].shape == (60,)


def test_the_file_of_100000_pairs_is_preferred(folder):
    brown = BrownPatches(folder)
    (folder / "m50_200_200_0.txt").write_text("0 0 0 1 1 0 0\n" * 3)
    assert len(brown.pairs().first) == 3
    (folder / "m50_100000_100000_0.txt").write_text("5 7 0 6 7 0 0\n")
    pairs = brown.pairs()
    assert [part.tolist() for part in pairs] == [[5], [6], [True]]
    for name in ("m50_200_200_0.txt", "m50_100000_100000_0.txt"):
        (folder / name).unlink()
    assert len(brown.pairs(folder / "m50_60_60_0.txt").first) == 120


def test_samples_are_two_patches_of_each_point(folder):
    samples = BrownSamples(folder=folder, size=32, points=20, seed=4)
    first, second, location = samples[7]
    assert first.shape == second.shape == (20, 32, 32)
    assert first.dtype == np.uint8
    assert location.shape == (20, 5)
    assert len(np.unique(location[:, 0])) > 10
    flat = [torch.from_numpy(np.ascontiguousarray(x)).flatten(1).float() for x in (first, second)]
    same = (flat[0] - flat[1]).norm(dim=1)
    others = (flat[0] - flat[1].roll(1, 0)).norm(dim=1)
    assert (same > 0).all()  # never the same patch twice
    apart = torch.from_numpy(location[:, 0] != np.roll(location[:, 0], 1))
    assert same.max() < others[apart].min()
    again = pickle.loads(pickle.dumps(samples))[7]
    assert all((a == b).all() for a, b in zip(again, (first, second, location), strict=True))
    turned = [samples[k].first[0] for k in range(12)]
    assert all(patch.shape == (32, 32) for patch in turned)
    with pytest.raises(IndexError, match="got -1"):
        samples[-1]


def test_training(folder, tmp_path, monkeypatch, capsys):
    recipe = RECIPES["hardnet-half"]
    schedule = replace(recipe.schedule, steps=2, batch=2, average=0.0)
    monkeypatch.setitem(RECIPES, "hardnet-half", replace(recipe, schedule=schedule, points=8))
    words = ["train", "matching", "--recipe", "hardnet-half", "--workers", "0", "--device", "cpu"]
    words += ["-o", str(tmp_path), "--data"]
    assert main([*words, f"brown:{folder}"]) == 0
    assert "step 2/2  loss" in capsys.readouterr().err
    (tmp_path / "hardnet-half.pt").unlink()
    assert main([*words, f"liberty:{folder}"]) == 2
    assert "--data must be brown:FOLDER for patches, got 'liberty" in capsys.readouterr().err


def test_mixtures_use_all_sources(folder, photo):
    """Photographs and the set are equally likely; their points never share a location."""
    about = {"size": 32, "points": 8, "seed": 1}
    brown = BrownSamples(folder=folder, **about)
    views = SyntheticPatches([photo], pool=1, reuse=1000, **about)
    mixed = PatchMixture([views, brown, views, brown], 1)
    assert len(mixed) == len(brown)
    seen = []
    for index in range(12):
        pairs = mixed[index]
        from_brown = bool((pairs.location[:, 0] >= 2**20).all())
        expected = (brown if from_brown else views)[index]
        assert (pairs.first == expected.first).all()
        shift = 2**20 if from_brown else 0
        np.testing.assert_array_equal(pairs.location[:, 0], expected.location[:, 0] + shift)
        seen.append(from_brown)
    assert 2 <= sum(seen) <= 10


def test_damaged_sets(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder .* does not exist"):
        BrownPatches(tmp_path / "none")
    (tmp_path / "info.txt").write_text("1 0\n2 0\n")
    with pytest.raises(FileNotFoundError, match=r"patches0000.bmp is missing; info.txt lists 2"):
        BrownPatches(tmp_path)
    write_image(tmp_path / "patches0000.bmp", np.zeros((64, 1024), np.uint8))
    with pytest.raises(ValueError, match="1024 x 1024, got 1024 x 64"):
        BrownPatches(tmp_path).read(np.array([0]))
    with pytest.raises(FileNotFoundError, match="has no pairs, m50_100000_100000_0.txt"):
        BrownPatches(tmp_path).pairs()
    for text, reason in (
        ("0 1 0 2 2 0 0\n", "refers to patches beyond the 2 of info.txt"),
        ("0 1 0 1\n", "expected 5 integers per line"),
        ("0 1 0 x 1\n", "expected 5 integers per line"),
        ("", "expected 5 integers per line, got 0 lines"),
    ):
        (tmp_path / "m50_1_1_0.txt").write_text(text)
        with pytest.raises(ValueError, match=reason):
            BrownPatches(tmp_path).pairs()
    with pytest.raises(ValueError, match="expected points with two patches, got none"):
        BrownSamples(folder=tmp_path)


def test_command(folder, capsys):
    words = ["eval", "matching", "--brown", str(folder), "--model", "rootsift", "--filter"]
    assert main([*words, "2ch", "--no-baselines"]) == 0
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines() if line.startswith(("rootsift", "2ch"))]
    assert [row[0] for row in rows] == ["rootsift", "2ch"]
    assert all(0 <= float(row[1]) <= 100 for row in rows)
    assert "120 pairs, 60 of them corresponding." in output
    assert main(["eval", "matching", "--brown", str(folder), str(folder)]) == 2
    assert "expected one of FOLDER, --hpatches and --brown" in capsys.readouterr().err
