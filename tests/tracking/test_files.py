"""Files of tracks and of points."""

import numpy as np
import pytest

from flowmatch.tracking import BoxTracks, PointTracks
from flowmatch.tracking.files import read_mot, read_points, write_tracks

BOXES = BoxTracks(
    np.array([0, 2]),
    np.array([[(10.0, 20, 30, 40)], [(11.5, 20, 30, 40)]]),
    np.array([[1.0], [0.25]], np.float32),
    np.array([[False], [True]]),
)
POINTS = PointTracks(np.array([0]), np.array([[(1.5, 2), (3, 4)]]), np.array([[True, False]]))


def test_boxes(tmp_path):
    write_tracks(tmp_path / "b.csv", BOXES)
    assert (tmp_path / "b.csv").read_text().splitlines() == [
        "frame,object,x,y,width,height,score,lost",
        "0,0,10.000,20.000,30.000,40.000,1.000,0",
        "2,0,11.500,20.000,30.000,40.000,0.250,1",
    ]
    write_tracks(tmp_path / "b.txt", BOXES)
    assert (tmp_path / "b.txt").read_text() == (
        "1,1,11.000,21.000,30.000,40.000,1.000,-1,-1,-1\n"  # the lost one is left out
    )
    np.testing.assert_array_equal(read_mot(tmp_path / "b.txt"), BOXES.boxes[:1])
    write_tracks(tmp_path / "b.npz", BOXES)
    with np.load(tmp_path / "b.npz") as file:
        assert {key: file[key].tolist() for key in file} == {
            key: value.tolist() for key, value in vars(BOXES).items()
        }


def test_points(tmp_path):
    write_tracks(tmp_path / "p.csv", POINTS)
    assert (tmp_path / "p.csv").read_text().splitlines()[1:] == [
        "0,0,1.500,2.000,1",
        "0,1,3.000,4.000,0",
    ]
    write_tracks(tmp_path / "p.npz", POINTS)
    with np.load(tmp_path / "p.npz") as file:
        np.testing.assert_array_equal(file["points"], POINTS.points)
    with pytest.raises(ValueError, match="expected a file of tracks ending in one of .csv, .npz"):
        write_tracks(tmp_path / "p.txt", POINTS)
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "p.txt").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "expected points, x and y in each line, got none"),
        ("1 2\n3\n", "expected numbers"),
        ("x,y\n1,2\n", "expected numbers"),
    ],
)
def test_bad_points(tmp_path, text, message):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_points(tmp_path / "p.txt")
    assert "p.txt" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError):
        read_points(tmp_path / "q.txt")


@pytest.mark.parametrize(
    "text, message",
    [
        ("1,1,5,5\n", "expected numbers"),
        ("1,1,5,5,0,4\n", "positive sides"),
        ("1,1,5,5,nan,4\n", "finite numbers"),
        ("0,1,5,5,4,4\n", "whole numbers of frames from 1"),
        ("1.5,1,5,5,4,4\n", "whole numbers of frames"),
        ("9e15,1,5,5,4,4\n", "whole numbers of frames"),
    ],
)
def test_bad_boxes(tmp_path, text, message):
    (tmp_path / "gt.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_mot(tmp_path / "gt.txt")
