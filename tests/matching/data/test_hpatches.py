"""Patches of HPatches: reading a small release, its tasks recomputed by plain loops."""

import csv
import json

import numpy as np
import pytest
import torch

from flowmatch._opencv import cv2
from flowmatch.cli import main
from flowmatch.matching.data.hpatches import (
    VIEWS,
    Tasks,
    find_patch_sequences,
    read_tasks,
    sample_tasks,
)
from flowmatch.matching.data.stacks import describe_patches
from flowmatch.matching.evaluation.patch_scores import POOLS, PatchScores, evaluate_patches

COUNTS = {"i_light": 7, "v_far": 6, "v_wide": 9}
SPREAD = {"ref": 0, "e": 15, "h": 60, "t": 110}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three sequences; noise relative to the first view grows from easy to tough."""
    root = tmp_path_factory.mktemp("hpatches-release")
    rng = np.random.default_rng(0)
    for name, count in COUNTS.items():
        (root / name).mkdir()
        coarse = rng.integers(90, 160, (count, 5, 5)).astype(np.float64)
        coarse[0] = 100  # too flat for retrieval
        for view in VIEWS:
            noisy = coarse + rng.normal(size=coarse.shape) * SPREAD[view.rstrip("12345")] / 4
            strip = np.kron(noisy.clip(0, 255).round(), np.ones((13, 13)))
            strip = strip.reshape(-1, 65).astype(np.uint8)
            assert cv2.imwrite(str(root / name / f"{view}.png"), strip)
    return root


def means(patches):
    """Descriptor: the mean gray values of 25 squares, minus their mean."""
    squares = patches[:, 6::13, 6::13].reshape(len(patches), 25).astype(np.float32)
    return torch.from_numpy(squares - squares.mean(axis=1, keepdims=True))


@pytest.fixture(scope="module")
def sequences(folder):
    return find_patch_sequences(folder)


@pytest.fixture(scope="module")
def tasks(sequences):
    return sample_tasks(sequences, pairs=40, queries=6, distractors=12, seed=3)


def test_reader(folder, sequences):
    assert [(s.name, s.length) for s in sequences] == list(COUNTS.items())
    patches = sequences[1].read("h3")
    strip = cv2.imread(str(folder / "v_far" / "h3.png"), cv2.IMREAD_GRAYSCALE)
    assert patches.shape == (6, 65, 65)
    np.testing.assert_array_equal(patches[2], strip[130:195])
    assert [s.name for s in find_patch_sequences(folder / "v_far")] == ["v_far"]


def test_sampled_tasks(sequences, tasks):
    counts = np.array([s.length for s in sequences])
    for table in tasks[:3]:
        assert table.shape == (40, 6)
        assert (table[:, [1, 4]] <= 5).all()
        assert (table[:, 1] != table[:, 4]).all()
        for k in (0, 3):
            assert (table[:, k + 2] < counts[table[:, k]]).all()
    np.testing.assert_array_equal(tasks.positive[:, [0, 2]], tasks.positive[:, [3, 5]])
    assert (tasks.intra[:, 0] == tasks.intra[:, 3]).all()
    assert (tasks.intra[:, 2] != tasks.intra[:, 5]).all()
    chosen = [tuple(row) for row in np.concatenate([tasks.queries, tasks.distractors])]
    assert len(set(chosen)) == len(chosen) == 6 + 12
    assert 0 not in {index for _, index in chosen}  # the flat patches
    with pytest.raises(ValueError, match="expected sequences of two patches or more"):
        sample_tasks([sequences[0]._replace(length=1)])


# ---- The same by plain loops -------------------------------------------------------------------


def area(ranked, possible):
    """Return the area under precision over recall, point by point."""
    total, true, precision = 0.0, 0, 1.0
    for k, mark in enumerate(ranked, start=1):
        true += mark
        total += (mark / possible) * (precision + true / k) / 2
        precision = true / k
    return total


def ranked(pairs):
    return [mark for _, mark in sorted(pairs, key=lambda pair: pair[0])]


def plain_scores(sequences, tasks):
    seen = {(s.name, view): means(s.read(view)).double() for s in sequences for view in VIEWS}
    names = [s.name for s in sequences]

    def far(noise, row):
        ends = []
        for sequence, view, patch in (row[:3], row[3:]):
            ends.append(seen[names[sequence], f"{noise}{view}" if view else "ref"][patch])
        return float((ends[0] - ends[1]).norm())

    scores = {task: {} for task in PatchScores._fields}
    for noise, name in (("e", "easy"), ("h", "hard"), ("t", "tough")):
        precise, balanced = [], []
        same = [far(noise, row) for row in tasks.positive.tolist()]
        for table in (tasks.intra, tasks.inter):
            other = [far(noise, row) for row in table.tolist()]
            few = [(d, 0) for d in other] + [(d, 1) for d in same[: len(same) // 5]]
            precise.append(area(ranked(few), len(same) // 5))
            wins = [(a < b) for a in same for b in other]
            balanced.append(sum(wins) / len(wins))
        scores["verification"][name] = np.mean(precise)
        scores["balanced"][name] = np.mean(balanced)
        groups = {"i": [], "v": []}
        for s in sequences:
            areas = []
            for k in range(1, 6):
                apart = torch.cdist(seen[s.name, "ref"], seen[s.name, f"{noise}{k}"])
                nearest = apart.argmin(dim=1).tolist()
                pairs = [(float(apart[i, j]), int(i == j)) for i, j in enumerate(nearest)]
                areas.append(area(ranked(pairs), s.length))
            groups[s.name[0]].append(np.mean(areas))
        scores["matching"][name] = np.mean([np.mean(g) for g in groups.values()])
        areas = []
        for sequence, patch in tasks.queries.tolist():
            query = seen[names[sequence], "ref"][patch]
            own = [seen[names[sequence], f"{noise}{k}"][patch] for k in range(1, 6)]
            pairs = [(float((x - query).norm()), 1) for x in own]
            for other, index in tasks.distractors.tolist():
                if other != sequence:
                    pairs.append((float((seen[names[other], "ref"][index] - query).norm()), 0))
            areas += [area(ranked(pairs[:pool]), 5) for pool in POOLS]
        scores["retrieval"][name] = np.mean(areas)
    return scores


@pytest.mark.parametrize("pools", [POOLS, (6, 9, 100)])
def test_scores_are_those_of_plain_loops(sequences, tasks, monkeypatch, pools):
    monkeypatch.setattr("flowmatch.matching.evaluation.patch_scores.POOLS", pools)
    monkeypatch.setitem(globals(), "POOLS", pools)
    seen = []
    scores = evaluate_patches(sequences, tasks, means, progress=lambda *args: seen.append(args))
    assert seen == [("sequences", number, 3) for number in (1, 2, 3)]
    expected = plain_scores(sequences, tasks)
    for task, by in scores._asdict().items():
        assert by == pytest.approx(expected[task], abs=1e-6), task
    # Scores are not trivial, and decrease with noise.
    for by in scores:
        assert 1 >= by["easy"] >= by["hard"] >= by["tough"] > 0
    assert scores.means()["matching"] == pytest.approx(np.mean([*scores.matching.values()]))


def test_official_lists(folder, sequences, tasks, tmp_path):
    names = [s.name for s in sequences]
    kinds = {"positive": "verif_pos", "intra": "verif_neg_intra", "inter": "verif_neg_inter"}
    for task, name in (
        kinds | {"queries": "retr_queries", "distractors": "retr_distractors"}
    ).items():
        with (tmp_path / f"{name}_split-a.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["s1", "t1", "idx1", "s2", "t2", "idx2"])
            for row in getattr(tasks, task).tolist():
                rows.writerow([names[n] if k % 3 == 0 else n for k, n in enumerate(row)])
    again = read_tasks(tmp_path, "a", sequences)
    for task in Tasks._fields:
        np.testing.assert_array_equal(getattr(again, task), getattr(tasks, task))
    with pytest.raises(FileNotFoundError, match="verif_pos_split-b.csv"):
        read_tasks(tmp_path, "b", sequences)
    with pytest.raises(ValueError, match="the sequence 'v_wide' has no patches"):
        read_tasks(tmp_path, "a", sequences[:2])
    path = tmp_path / "retr_queries_split-a.csv"
    for text, reason in (
        ("s,idx\ni_light,7\n", "refers to patches that do not exist"),
        ("s,idx\ni_light,x\n", r"expected names and numbers, got \['i_light', 'x'\]"),
        ("s,idx\ni_light\n", r"expected 2 columns, got \['i_light'\]"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            read_tasks(tmp_path, "a", sequences)


def test_damaged_folders(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder .* does not exist"):
        find_patch_sequences(folder / "none")
    with pytest.raises(ValueError, match="expected sequences of patches, ref.png"):
        find_patch_sequences(tmp_path)
    patch = np.zeros((130, 65), np.uint8)
    for view in VIEWS[:-1]:
        assert cv2.imwrite(str(tmp_path / f"{view}.png"), patch)
    with pytest.raises(FileNotFoundError, match="t5.png is missing"):
        find_patch_sequences(tmp_path)
    assert cv2.imwrite(str(tmp_path / "t5.png"), patch[:65])
    (sequence,) = find_patch_sequences(tmp_path)
    with pytest.raises(ValueError, match="t5.png: expected 2 patches as in ref.png, got 1"):
        sequence.read("t5")
    assert cv2.imwrite(str(tmp_path / "ref.png"), patch[:100])
    with pytest.raises(ValueError, match="expected a column of patches of 65 x 65 .* got 65 x 100"):
        find_patch_sequences(tmp_path)


def test_classical_descriptors_of_patches(photo):
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    patches = np.stack([gray[y : y + 65, x : x + 65] for y, x in ((60, 100), (90, 150), (120, 60))])
    brighter = (patches // 2 + 60).astype(np.uint8)
    for name in ("rootsift", "sift"):
        first, second = describe_patches(name, patches), describe_patches(name, brighter)
        assert first.shape == (3, 128)
        assert torch.cdist(first, second).argmin(dim=1).tolist() == [0, 1, 2]
    assert describe_patches("orb", patches).shape == (3, 32)
    with pytest.raises(ValueError, match="expected a network or one of rootsift"):
        describe_patches("surf", patches)
    with pytest.raises(ValueError, match=r"patches must be gray, uint8 \[N, S, S\], got uint8 \[0"):
        describe_patches("sift", patches[:0])


def test_command(folder, capsys):
    words = ["eval", "matching", "--hpatches", str(folder), "--model", "rootsift"]
    assert main([*words, "--no-baselines", "--json", "-"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]["rootsift"]
    assert set(scores["matching"]) == {"easy", "hard", "tough"}
    assert main([*words, "--no-baselines"]) == 0
    output = capsys.readouterr().out
    (row,) = [line.split() for line in output.splitlines() if line.startswith("rootsift")]
    assert float(row[4]) == pytest.approx(100 * scores["matching"]["easy"], abs=0.01)
    assert "3 sequences, pairs sampled by the benchmark's rules" in output
    assert main([*words, "--lists", str(folder)]) == 2
    assert "verif_pos_split-full.csv does not exist" in capsys.readouterr().err
