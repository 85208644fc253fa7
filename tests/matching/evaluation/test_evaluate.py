"""Evaluation of matching: perfect and useless descriptors get the expected scores."""

import json
import math

import numpy as np
import pytest
import torch

from flowmatch.cli import main
from flowmatch.io import write_image
from flowmatch.matching.data.sequences import find_image_pairs
from flowmatch.matching.evaluation.evaluate import evaluate
from flowmatch.matching.methods import load_methods
from flowmatch.matching.options import MatchOptions

SHIFT = np.array([[1, 0, -20.0], [0, 1, -10], [0, 0, 1]])


@pytest.fixture
def folder(tmp_path, photo):
    """One sequence shifted by whole pixels, and one with a change of illumination."""
    crops = {1: (0, 0), 2: (10, 20)}
    for sequence in ("v_moved", "i_dim"):
        (tmp_path / sequence).mkdir()
        for k, (y, x) in crops.items():
            crop = photo[y : y + 200, x : x + 300]
            crop = crop // 3 + 20 if sequence == "i_dim" and k == 2 else crop
            write_image(tmp_path / sequence / f"{k}.png", np.ascontiguousarray(crop))
        np.savetxt(tmp_path / sequence / "H_1_2", SHIFT)
    return tmp_path


class _Constant:
    """Descriptor that is the same for all patches."""

    patch_size, dim = 8, 4

    def __call__(self, patches):
        return torch.ones(len(patches), 4)


class _Pixels:
    """Descriptor: the patch without its mean, which is exact for shifts."""

    patch_size, dim = 16, 256

    def __call__(self, patches):
        pixels = patches.flatten(1)
        return torch.nn.functional.normalize(pixels - pixels.mean(1, keepdim=True), dim=1)


def test_scores(folder):
    pairs = find_image_pairs(folder)
    done = []
    methods = {"pixels": _Pixels(), "wide": (_Pixels(), 9.0), "rootsift": "rootsift"}
    result = evaluate(pairs, methods, keypoints=300, progress=lambda *args: done.append(args))
    assert done == [("pairs", 1, 2), ("pairs", 2, 2)]
    assert [(r.name, r.method) for r in result.sequences] == [
        (name, method) for name in ("i_dim", "v_moved") for method in methods
    ]
    assert [r.name for r in result.groups] == ["illumination"] * 3 + ["viewpoint"] * 3
    moved = [row for row in result.sequences if row.name == "v_moved"]
    for row in moved:
        assert row.accuracy > 0.95
        assert row.recall > 0.85
        assert row.precision > 0.85
        assert row.auc3 > 0.9
        assert row.auc10 >= row.auc5 >= row.auc3
        assert row.purity > 0.95
        assert row.kept > 20
        assert row.seconds > 0
    assert len({row.matches for row in moved}) == 1  # equal for all methods
    mean, (first, second) = result.mean[0], (result.sequences[0], result.sequences[3])
    assert mean.pairs == 2
    assert mean.accuracy == pytest.approx((first.accuracy + second.accuracy) / 2)


def test_a_useless_descriptor(folder):
    pairs = find_image_pairs(folder / "v_moved")
    result = evaluate(pairs, {"constant": _Constant()}, keypoints=100)
    row = result.mean[0]
    assert row.matches <= 1
    assert row.precision < 0.05
    assert row.auc10 == 0


def test_all_methods_are_scored_on_the_fewest_matches(folder):
    pairs = find_image_pairs(folder / "v_moved")
    alone = evaluate(pairs, {"rootsift": "rootsift"}, keypoints=200).mean[0]
    both = evaluate(pairs, {"rootsift": "rootsift", "constant": _Constant()}, keypoints=200)
    assert both.mean[0].matches == both.mean[1].matches < alone.matches
    assert both.mean[0].precision == alone.precision  # of all nearest neighbours


class _Difference:
    """Comparator: 0.1 minus the mean difference of gray values, times a sign."""

    patch_size = 16

    def __init__(self, sign):
        self.sign = sign

    def __call__(self, first, second):
        return self.sign * (0.1 - (first - second).abs().mean(dim=(1, 2, 3)))


def test_filters(folder):
    pairs = find_image_pairs(folder / "v_moved")
    methods = {"pixels": (_Pixels(), 2.0), "sift": "sift"}
    filter_models = {"wise": _Difference(1), "foolish": _Difference(-1)}
    result = evaluate(pairs, methods, filter_models=filter_models, keypoints=200)
    rows = {row.method: row for row in result.mean}
    assert list(rows) == ["pixels", "sift", "pixels + wise", "pixels + foolish"]
    base, wise, foolish = rows["pixels"], rows["pixels + wise"], rows["pixels + foolish"]
    assert wise.fpr95 < 0.05 < foolish.fpr95
    assert wise.precision > 0.8 > foolish.precision
    # One keeps what the other rejects.
    assert wise.kept + foolish.kept == base.kept
    assert wise.kept > foolish.kept
    assert len({row.matches for row in rows.values()}) == 1
    assert wise.seconds > 0


def test_pairs_that_cannot_be_read(folder):
    (folder / "v_moved" / "2.png").write_bytes(b"damaged")
    pairs = find_image_pairs(folder)
    result = evaluate(pairs, {"sift": "sift"}, keypoints=50)
    assert result.mean[0].pairs == 1
    ((name, reason),) = result.skipped
    assert name == "v_moved/2"
    assert "2.png" in reason
    with pytest.raises(ValueError, match="no pair of 1 can be read, the first because"):
        evaluate(pairs[1:], {"sift": "sift"})
    with pytest.raises(ValueError, match="at least one method"):
        evaluate(pairs, {})


def test_images_without_keypoints(folder):
    flat = np.full((200, 300, 3), 90, np.uint8)
    write_image(folder / "v_moved" / "2.png", flat)
    result = evaluate(find_image_pairs(folder / "v_moved"), {"sift": "sift", "orb": "orb"})
    row = result.mean[0]
    assert (row.matches, row.accuracy, row.auc10) == (0, 0, 0)
    assert math.isnan(row.recall)
    assert result.to_json()["mean"][0]["recall"] is None


# ---- The command -------------------------------------------------------------------------------


def test_command(folder, capsys):
    assert main(["eval", "matching", str(folder), "--keypoints", "200"]) == 0
    table = capsys.readouterr().out
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == [
        "matches",
        "MMA@3",
        "recall",
        "FPR95",
        "mAP",
        "AUC@3",
        "AUC@5",
        "AUC@10",
        "kept",
        "right",
        "s/8k",
    ]
    names = [line[0] for line in lines if line and line[0] in ("SIFT", "RootSIFT", "ORB")]
    assert names == ["SIFT", "RootSIFT", "ORB"] * 5
    assert "viewpoint, mean" in table
    assert "mean (2 pairs)" in table


def test_command_with_a_filter(folder, capsys):
    words = ["--model", "rootsift", "--no-baselines", "--filter", "siam", "--keypoints", "50"]
    assert main(["eval", "matching", str(folder / "v_moved"), *words]) == 0
    assert "  rootsift + siam" in capsys.readouterr().out


def test_command_json_with_weights(folder, shared_data, capsys):
    weights = shared_data / "interop" / "tfeat" / "tfeat-liberty.params"
    if not weights.is_file():
        pytest.skip("the published weights of TFeat (../shared/data/interop) are missing")
    words = ["--model", str(weights), "--no-baselines", "--json", "-", "--keypoints", "200"]
    assert main(["eval", "matching", str(folder), *words, "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    (row,) = result["mean"]
    assert row["method"] == "tfeat-liberty"
    assert row["accuracy"] > 0.8


def test_command_on_an_empty_folder(tmp_path, capsys):
    assert main(["eval", "matching", str(tmp_path)]) == 2
    assert "expected sequences with images" in capsys.readouterr().err


def test_real_viewpoints(shared_data):
    folder = shared_data / "homography" / "graf"
    if not folder.is_dir():
        pytest.skip("the images of graf (../shared/data/homography) are missing")
    rows = evaluate(find_image_pairs(folder), {"rootsift": "rootsift", "orb": "orb"}).mean
    assert rows[0].accuracy > 0.6
    assert rows[0].accuracy > rows[1].accuracy + 0.1


def test_equal_names_raise_an_error(tmp_path, capsys):
    words = ["eval", "matching", str(tmp_path), "--filter", "siam", "--filter", "siam"]
    assert main(words) == 2
    assert "two models are called siam" in capsys.readouterr().err


def test_a_method_with_keypoints_of_its_own(folder):
    """Its matches and homographies are scored, and nothing that needs the same keypoints."""
    complete = {"sift + nearest": load_methods("rootsift", "cpu", MatchOptions())}
    result = evaluate(
        find_image_pairs(folder), {"rootsift": "rootsift"}, complete=complete, keypoints=300
    )
    same, own = (row for row in result.sequences if row.name == "v_moved")
    assert own.method == "sift + nearest"
    # The same keypoints, matches and ratio test as those of the descriptor.
    assert (own.kept, own.purity) == (same.kept, same.purity)
    assert own.auc5 > 0.9
    for value in (own.matches, own.accuracy, own.recall, own.fpr95, own.precision, own.seconds):
        assert math.isnan(value)


def test_command_with_a_matcher(folder, capsys):
    words = ["eval", "matching", str(folder), "--keypoints", "200", "--model", "rootsift"]
    KF = pytest.importorskip("kornia.feature", reason="kornia is not installed")
    weights = folder / "xfeat.pth"
    torch.save(KF.XFeat().net.state_dict(), weights)
    rest = ["--no-baselines", "--detector", "xfeat", "--detector-weights", str(weights)]
    assert main([*words, *rest, "--device", "cpu", "--json", "-"]) == 0
    means = json.loads(capsys.readouterr().out)["mean"]
    assert [row["method"] for row in means] == ["rootsift", "xfeat + nearest"]
    assert means[1]["matches"] is None
    words = ["eval", "matching", "--brown", str(folder), "--matcher", "lightglue"]
    assert main(words) == 2
    assert "--detector and --matcher need FOLDER" in capsys.readouterr().err
