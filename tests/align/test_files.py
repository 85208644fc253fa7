"""Files of alignments."""

import json

import numpy as np
import pytest
import torch

from flowmatch.align import Alignment, read_alignment, write_alignment
from flowmatch.align.transforms import THIN_PLATE, identity


@pytest.fixture
def alignment():
    spline = identity(THIN_PLATE) + torch.linspace(-0.1, 0.1, THIN_PLATE)
    affine = torch.tensor([[0.9, 0.1, 0.05, -0.1, 1.1, -0.2]])
    return Alignment((affine, spline), "network", True, (30, 40), (50, 70), 1.25, 0.75)


def test_json_keeps_everything(alignment, tmp_path):
    write_alignment(tmp_path / "a.json", alignment)
    read = read_alignment(tmp_path / "a.json")
    assert all(torch.equal(a, b) for a, b in zip(read.stages, alignment.stages, strict=True))
    assert (read.method, read.found) == ("network", True)
    assert (read.first_size, read.second_size) == ((30, 40), (50, 70))
    assert (read.error, read.inliers) == (1.25, 0.75)


def test_map_and_points_are_those_of_the_transform(alignment, tmp_path):
    write_alignment(tmp_path / "a.npz", alignment)
    with np.load(tmp_path / "a.npz") as archive:
        places = archive["map"]
    assert places.shape == (30, 40, 2)
    np.testing.assert_allclose(places[7, 11], alignment.points([(11, 7)])[0], atol=1e-4)
    write_alignment(tmp_path / "a.csv", alignment)
    rows = np.loadtxt(tmp_path / "a.csv", delimiter=",", skiprows=1)
    assert (tmp_path / "a.csv").read_text().startswith("x1,y1,x2,y2\n0.500,0.250,")
    np.testing.assert_allclose(rows[:, 2:], alignment.points(rows[:, :2]), atol=2e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"stages": [[1.0, 2.0]]},
        {"stages": []},
        {"stages": [[float("nan")] * 6]},
        {"stages": "ab"},
        {"first_size": [0, 4]},
        {"second_size": [1]},
        {"first_size": [1e400, 2]},
    ],
)
def test_other_content_is_refused(change, alignment, tmp_path):
    path = tmp_path / "a.json"
    write_alignment(path, alignment)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"a\.json: expected an alignment that flowmatch align"):
        read_alignment(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, "\ufeff", "null"])
def test_damaged_files_are_refused(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="expected an alignment"):
        read_alignment(path)
    with pytest.raises(FileNotFoundError):
        read_alignment(tmp_path / "none.json")
