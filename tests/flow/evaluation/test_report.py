"""Reports of evaluations: columns, and the page."""

import math

import numpy as np
import pytest

from flowmatch.flow.data.datasets import find_pairs
from flowmatch.flow.evaluation import report
from flowmatch.flow.evaluation.evaluate import evaluate
from flowmatch.flow.evaluation.report import FlowGallery, known_columns, number
from flowmatch.io import write_flow, write_image


@pytest.fixture
def pairs(tmp_path):
    for name in ("a & b", "c"):
        (tmp_path / name).mkdir()
        for frame in ("frame1.png", "frame2.png"):
            write_image(tmp_path / name / frame, np.zeros((20, 500, 3), np.uint8))
        write_flow(tmp_path / name / "flow.flo", np.full((20, 500, 2), (3.0, 4.0)))
    return find_pairs(tmp_path)


def still(first, second):
    return np.zeros((*first.shape[:2], 2), np.float32)


def test_numbers():
    assert number(1.25, 1) == "1.2"
    assert number(math.nan, 3) == "-"


def test_columns_without_numbers_are_left_out(pairs):
    columns = known_columns(evaluate(pairs, {"still": still}))
    assert list(columns)[:6] == ["EPE", "Fl-all", ">1px", ">3px", ">5px", "s0-10"]
    assert not {"s10-40", "s40+", "match", "unmatch"} & columns.keys()


def test_a_page_has_the_images_of_each_sequence(pairs, monkeypatch):
    gallery = FlowGallery(("still",))
    evaluation = evaluate(pairs, {"still": still}, on_pair=gallery.add)
    page = gallery.page(evaluation, "about <this>")
    assert page.count("<figure>") == 2 * 5  # frames, truth, flow and error
    assert "about &lt;this&gt;" in page
    assert "<h2>a &amp; b</h2>" in page
    assert "truth, up to 5.0 px" in page
    monkeypatch.setattr(report, "MAX_SEQUENCES", 1)
    small = FlowGallery(("still",))
    page = small.page(evaluate(pairs, {"still": still}, on_pair=small.add), "")
    assert page.count("<figure>") == 5
    assert "Images of the first 1 sequences only." in page
