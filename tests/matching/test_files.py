"""Files of matches: round trips, and errors for damaged and hostile files."""

import csv
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmatch.matching.features import Matches
from flowmatch.matching.files import (
    read_matches,
    read_matches_about,
    write_colmap_features,
    write_colmap_matches,
    write_matches,
)
from flowmatch.matching.keypoints import Keypoints


def some_matches(matrix=True):
    rng = np.random.default_rng(0)
    first, second = (
        Keypoints(
            rng.uniform(0, 100, (n, 2)).astype(np.float32),
            *rng.uniform(1, 6, (3, n)).astype(np.float32),
        )
        for n in (5, 4)
    )
    pairs = np.array([(0, 3), (4, 1), (2, 2)])
    distance = np.array([0.25, 0.5, 0.75], np.float32)
    inlier = np.array([True, False, True])
    H = np.array([[1, 0, 5.0], [0, 1, -3], [0, 0, 1]]) if matrix else None
    return Matches(first, second, pairs, distance, inlier, H, "homography" if matrix else None)


def test_capital_suffix(tmp_path):
    write_matches(tmp_path / "m.NPZ", some_matches())
    assert [file.name for file in tmp_path.iterdir()] == ["m.NPZ"]
    np.testing.assert_array_equal(read_matches(tmp_path / "m.NPZ").matches, some_matches().matches)


@pytest.mark.parametrize("matrix", [True, False])
def test_npz_holds_all_fields(tmp_path, matrix):
    path, matches = tmp_path / "matches.npz", some_matches(matrix)
    write_matches(path, matches, "found by hand")
    again = read_matches(path)
    assert read_matches_about(path)[1] == "found by hand"
    assert again.geometry == matches.geometry
    ours, theirs = (
        [*m.keypoints0, *m.keypoints1, m.matches, m.distances, m.inliers] for m in (again, matches)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    if matrix:
        np.testing.assert_array_equal(again.matrix, matches.matrix)
    else:
        assert again.matrix is None


def test_csv_and_json_hold_a_line_for_each_match(tmp_path):
    matches = some_matches()
    a, b = matches.points()
    expected = np.column_stack([a, b, matches.distances, matches.inliers])
    write_matches(tmp_path / "m.csv", matches)
    with (tmp_path / "m.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["x0", "y0", "x1", "y1", "distance", "inlier"]
    np.testing.assert_allclose(np.array(rows, float), expected, atol=6e-4)
    write_matches(tmp_path / "m.json", matches, "by hand")
    content = json.loads((tmp_path / "m.json").read_text())
    np.testing.assert_allclose(content["matches"], expected, atol=6e-4)
    assert content["matrix"] == matches.matrix.tolist()
    assert (content["geometry"], content["about"]) == ("homography", "by hand")


def test_colmap(tmp_path):
    matches = some_matches()
    write_colmap_features(tmp_path / "a.jpg.txt", matches.keypoints0)
    head, *rows = (tmp_path / "a.jpg.txt").read_text().splitlines()
    assert head == "5 128"
    numbers = np.array([row.split() for row in rows], float)
    assert numbers.shape == (5, 4 + 128)
    np.testing.assert_allclose(numbers[:, :2], matches.keypoints0.xy + 0.5, atol=1e-3)
    np.testing.assert_allclose(numbers[:, 2], matches.keypoints0.scale, atol=1e-4)
    assert (numbers[:, 4:] == 0).all()
    write_colmap_matches(tmp_path / "m.txt", [("a.jpg", "b.jpg", matches)] * 2)
    assert (tmp_path / "m.txt").read_text() == 2 * "a.jpg b.jpg\n0 3\n2 2\n\n"


def test_invalid_files(tmp_path):
    with pytest.raises(ValueError, match=r"one of \.npz, \.csv, \.json, got '\.txt'"):
        write_matches(tmp_path / "m.txt", some_matches())
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_matches(tmp_path / "missing.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="is not a whole file of matches"):
        read_matches(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("matches", np.array([(0, 9), (4, 1), (2, 2)]), "refer to keypoints that do not exist"),
        ("matches", np.zeros((3, 2), np.float32), r"expected matches as i8 \[K, 2\], got float32"),
        ("distances", np.zeros(2, np.float32), r"expected distances as f4 \[K\], got .* \[2\]"),
        ("scale1", np.zeros(5, np.float32), r"expected scale1 as f4 \[M\]"),
        ("geometry", np.array("magic"), "expected geometry as one of homography, fundamental"),
        ("inliers", np.array([None, 1, 2], object), "claims object"),
    ],
)
def test_inconsistent_files(tmp_path, name, array, reason):
    path = tmp_path / "matches.npz"
    write_matches(path, some_matches())
    with np.load(path) as content:
        arrays = dict(content)
    np.savez(path, **{**arrays, name: array})
    with pytest.raises(ValueError, match=reason):
        read_matches(path)


def test_a_zip_bomb_raises_an_error_before_it_is_unpacked(tmp_path):
    path = tmp_path / "matches.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<i8", "fortran_order": False, "shape": (2**40, 2)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("matches.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"matches claims int64 \[1099511627776, 2\]"):
        read_matches(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_raise_errors(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damage") / "matches.npz"
    write_matches(path, some_matches())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        read_matches(path)  # some changes do no harm
    except ValueError as error:
        assert "matches.npz" in str(error)
