"""The protocol of Oxford, by hand and by a plain loop."""

import json
import math
import random

import pytest

from flowmatch.retrieval.evaluation.metrics import (
    Truth,
    mean_average_precision,
    read_protocol,
)


def slow_average_precision(ranking, positives, junk):
    """Sum trapezoids along the ranking, as the program of Oxford does."""
    old_recall, old_precision, area, hits, count = 0.0, 1.0, 0.0, 0, 0
    for image in ranking:
        if image in junk:
            continue
        hits += image in positives
        recall, precision = hits / len(positives), hits / (count + 1)
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision, count = recall, precision, count + 1
    return area


def test_by_hand():
    # Both positives, at places 0 and 2: (1 + 1) / 2 * 1/2 + (1/2 + 2/3) / 2 * 1/2.
    truth = Truth(easy=(4, 2), hard=(7,), junk=(0,))
    result = mean_average_precision([[0, 4, 7, 1, 2]], [truth])
    assert result["mAP/easy"] == pytest.approx(0.5 + 7 / 24)  # the hard image is junk here
    assert result["mAP/medium"] == pytest.approx((1 + 1 + (2 / 3 + 3 / 4) / 2) / 3)
    assert result["mAP/hard"] == 1.0
    assert result["mP@1/easy"] == 1.0
    assert result["mP@5/easy"] == pytest.approx(2 / 3)
    assert result["mP@10/hard"] == 1.0


def test_equals_a_plain_loop():
    rng = random.Random(0)
    rankings, truths = [], []
    for _ in range(30):
        order = rng.sample(range(40), 40)
        marked = rng.sample(range(40), 12)
        truths.append(Truth(tuple(marked[:4]), tuple(marked[4:8]), tuple(marked[8:])))
        rankings.append(order[: rng.randint(5, 40)])
    result = mean_average_precision(rankings, truths)
    for setting, relevant, ignored in (("easy", (0,), (1, 2)), ("medium", (0, 1), (2,))):
        values = [
            slow_average_precision(
                ranking, sum((truth[k] for k in relevant), ()), sum((truth[k] for k in ignored), ())
            )
            for ranking, truth in zip(rankings, truths, strict=True)
        ]
        assert result[f"mAP/{setting}"] == pytest.approx(sum(values) / 30)


def test_queries_without_truth_are_left_out():
    result = mean_average_precision([[0], [1]], [Truth((0,), (), ()), Truth((), (), (1,))])
    assert result["mAP/easy"] == 1.0
    assert math.isnan(result["mAP/hard"])
    with pytest.raises(ValueError, match="twice"):
        mean_average_precision([[0, 0]], [Truth((0,), (), ())])
    with pytest.raises(ValueError, match="one ranking per query"):
        mean_average_precision([], [Truth((0,), (), ())])


def test_folder_of_oxford(tmp_path):
    for kind, text in (
        ("query", "oxc1_hall_1 136.5 34.1 648.5 955.7"),
        ("good", "hall_1\nhall_2\n"),
        ("ok", "hall_3"),
        ("junk", ""),
    ):
        (tmp_path / f"hall_1_{kind}.txt").write_text(text)
    names, queries, truths = read_protocol(tmp_path, ["x", "hall_3", "hall_1", "hall_2"])
    assert (names[0], queries) == ("x", ["hall_1"])
    assert truths == [Truth((2, 3, 1), (), (), (136.5, 34.1, 648.5, 955.7))]
    assert read_protocol(tmp_path).names == ["hall_1", "hall_2", "hall_3"]
    with pytest.raises(ValueError, match="names missing images: hall_2"):
        read_protocol(tmp_path, ["hall_1", "hall_3"])
    (tmp_path / "hall_1_query.txt").write_text("hall_1 1 2 3")
    with pytest.raises(ValueError, match="4 numbers"):
        read_protocol(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", "{}", '{"imlist": ["a"], "qimlist": [], "gnd": [{"easy": [0]}]}',
        '{"imlist": ["a"], "qimlist": ["b"], "gnd": [{"easy": [1], "hard": [], "junk": []}]}',
        '{"imlist": ["a"], "qimlist": ["b"], "gnd": []}',
    ],
)  # fmt: skip
def test_damaged_json(tmp_path, content):
    (tmp_path / "gnd.json").write_text(content)
    with pytest.raises(ValueError, match="gnd"):
        read_protocol(tmp_path / "gnd.json")


def test_first_protocols_as_json(tmp_path):
    gnd = [{"ok": [1], "junk": [0], "bbx": [1, 2, 3, 4]}]
    content = {"imlist": ["a", "b"], "qimlist": ["q"], "gnd": gnd}
    (tmp_path / "gnd.json").write_text(json.dumps(content))
    assert read_protocol(tmp_path / "gnd.json").truths == [Truth((1,), (), (0,), (1, 2, 3, 4))]
