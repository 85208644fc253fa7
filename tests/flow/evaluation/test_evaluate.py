"""Evaluation of simple methods on artificial pairs: rows, means, skipped pairs, JSON."""

import json

import numpy as np
import pytest

from flowmatch.flow.data.datasets import find_pairs
from flowmatch.flow.evaluation.evaluate import Skipped, evaluate
from flowmatch.io import write_flow, write_image


def pair_in(folder, speed, size=(4, 6)):
    """Write a pair whose true flow is `speed` pixels to the right everywhere."""
    folder.mkdir(parents=True)
    for name in ("frame1.png", "frame2.png"):
        write_image(folder / name, np.zeros((*size, 3), np.uint8))
    write_flow(folder / "flow.flo", np.full((*size, 2), (speed, 0.0)))


def still(first, second):
    return np.zeros((*first.shape[:2], 2), np.float32)


def rightward(first, second):
    return still(first, second) + np.float32((4, 0))


METHODS = {"rightward": rightward, "still": still}


@pytest.fixture
def scenes(tmp_path):
    pair_in(tmp_path / "indoor" / "sofa", 4)
    pair_in(tmp_path / "outdoor" / "car", 50, size=(20, 30))
    pair_in(tmp_path / "outdoor" / "tree", 2)
    return tmp_path


def scores_of(rows):
    return {(row.name, row.method): (row.pairs, row.scores.epe) for row in rows}


def test_rows_by_hand(scenes):
    evaluation = evaluate(find_pairs(scenes), METHODS)
    assert scores_of(evaluation.sequences) == {
        ("indoor/sofa", "rightward"): (1, 0.0),
        ("indoor/sofa", "still"): (1, 4.0),
        ("outdoor/car", "rightward"): (1, 46.0),
        ("outdoor/car", "still"): (1, 50.0),
        ("outdoor/tree", "rightward"): (1, 2.0),
        ("outdoor/tree", "still"): (1, 2.0),
    }
    assert scores_of(evaluation.groups) == {
        ("indoor", "rightward"): (1, 0.0),
        ("indoor", "still"): (1, 4.0),
        ("outdoor", "rightward"): (2, 24.0),
        ("outdoor", "still"): (2, 26.0),
    }
    # Means over pairs, not over groups (12 and 15) or pixels, most of which are the car's.
    assert scores_of(evaluation.mean) == {
        ("mean", "rightward"): (3, 16.0),
        ("mean", "still"): (3, pytest.approx(56 / 3)),
    }
    assert evaluation.skipped == ()
    assert all(row.milliseconds > 0 for row in evaluation.mean)


def test_one_group_is_not_repeated(scenes):
    assert evaluate(find_pairs(scenes / "outdoor"), METHODS).groups == ()


def test_pairs_of_one_sequence_are_averaged(scenes):
    pairs = [pair._replace(sequence="street") for pair in find_pairs(scenes / "outdoor")]
    evaluation = evaluate(pairs, {"still": still})
    assert scores_of(evaluation.sequences) == {("street", "still"): (2, 26.0)}


def test_unreadable_pairs_are_skipped_by_all_methods_and_reported(scenes):
    (scenes / "indoor" / "sofa" / "frame2.png").unlink()
    (scenes / "outdoor" / "tree" / "flow.flo").write_bytes(b"PIEH")
    done = []
    evaluation = evaluate(find_pairs(scenes), METHODS, progress=lambda *args: done.append(args))
    assert scores_of(evaluation.mean) == {
        ("mean", "rightward"): (1, 46.0),
        ("mean", "still"): (1, 50.0),
    }
    sofa, tree = evaluation.skipped
    assert isinstance(sofa, Skipped)
    assert (sofa.name, tree.name) == ("indoor/sofa", "outdoor/tree")
    assert "frame2.* does not exist" in sofa.reason
    assert "flow.flo" in tree.reason
    assert done == [("evaluating", 1, 3), ("evaluating", 2, 3), ("evaluating", 3, 3)]


def test_nothing_readable(scenes):
    (scenes / "indoor" / "sofa" / "flow.flo").unlink()
    with pytest.raises(ValueError, match=r"no pair of 1 .* because .*flow\.\* does not"):
        evaluate(find_pairs(scenes / "indoor"), METHODS)


def test_no_pairs_and_no_methods(scenes):
    with pytest.raises(ValueError, match="no pair of 0 can be read"):
        evaluate([], METHODS)
    with pytest.raises(ValueError, match="at least one method"):
        evaluate(find_pairs(scenes), {})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((4, 5, 2)), r"\[4, 5, 2\] and \[4, 6, 2\]"),
        (np.zeros((2, 4, 6)), r"\[2, 4, 6\]"),
        (np.full((4, 6, 2), np.nan), "finite everywhere, got 24 pixels"),
    ],
)
def test_a_wrong_answer_names_method_and_pair(answer, message, scenes):
    with pytest.raises(ValueError, match=f"guess on indoor/sofa: .*{message}"):
        evaluate(find_pairs(scenes), {"still": still, "guess": lambda first, second: answer})


def test_the_clock_starts_when_a_method_is_warm(scenes):
    calls = []

    def counted(first, second):
        calls.append(first.shape)
        return still(first, second)

    evaluate(find_pairs(scenes), {"counted": counted})
    assert calls == [(4, 6, 3), (4, 6, 3), (20, 30, 3), (4, 6, 3)]


def test_json_has_null_for_nan(scenes):
    (scenes / "indoor" / "sofa" / "flow.flo").unlink()
    evaluation = evaluate(find_pairs(scenes), METHODS)
    tables = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert list(tables) == ["sequences", "groups", "mean", "skipped", "reliability"]
    car = tables["sequences"][0]
    assert (car["name"], car["method"], car["pairs"]) == ("outdoor/car", "rightward", 1)
    assert (car["epe"], car["fl_all"], car["s40_plus"], car["pixels"]) == (46, 100, 46, 600)
    assert car["s0_10"] is None
    assert car["unmatched"] is None
    assert tables["skipped"][0]["name"] == "indoor/sofa"
