"""Results of a search: the contact sheet and the files."""

import json

import numpy as np
import pytest

from flowmatch.io import write_image
from flowmatch.retrieval import Result, results_sheet, write_results

RESULTS = [Result("a.png", 0.987654321, 20), Result("gone.png", -0.25), Result("b.png", 0.1, 3)]


def test_files(tmp_path):
    write_results(tmp_path / "r.csv", "q.png", RESULTS)
    assert (tmp_path / "r.csv").read_text().splitlines() == [
        "rank,name,score,inliers", "1,a.png,0.987654,20", "2,gone.png,-0.25,", "3,b.png,0.1,3"
    ]  # fmt: skip
    write_results(tmp_path / "r.json", "q.png", RESULTS)
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["query"] == "q.png"
    assert content["results"][1] == {"rank": 2, "name": "gone.png", "score": -0.25, "inliers": None}
    with pytest.raises(ValueError, match=r"\.json.*\.csv"):
        write_results(tmp_path / "r.xml", "q.png", RESULTS)


def test_contact_sheet(tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, np.full((60, 80, 3), 90, np.uint8))
    query = np.full((60, 80), 200, np.uint8)
    sheet = results_sheet(query, RESULTS, tmp_path)
    assert sheet.shape == results_sheet(query, RESULTS[::-1], tmp_path).shape
    # The frame of the verified result, which no other has.
    green = (sheet[..., 1].astype(int) - np.maximum(sheet[..., 0], sheet[..., 2])) > 60
    rows, columns = np.nonzero(green)
    assert len(rows) > 100
    unverified = results_sheet(query, [r._replace(inliers=None) for r in RESULTS], tmp_path)
    difference = unverified[..., 1].astype(int) - np.maximum(unverified[..., 0], unverified[..., 2])
    assert not (difference > 60).any()
