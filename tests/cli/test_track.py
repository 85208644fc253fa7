"""``flowmatch track``: files, videos, and bad input."""

import numpy as np
import pytest

from flowmatch.cli import main
from flowmatch.io import VideoWriter, read_frames


@pytest.fixture
def moving(tmp_path, photo):
    """A video of four frames, in which everything moves by 2 pixels to the left."""
    with VideoWriter(tmp_path / "clip.avi", rate=25) as video:
        for t in range(4):
            video.write(np.ascontiguousarray(photo[60:180, 100 + 2 * t : 260 + 2 * t]))
    return tmp_path


def words(folder, output, *more):
    return ["track", str(folder / "clip.avi"), "-o", str(folder / output), *more]


def test_boxes(moving, capsys):
    line = words(moving, "b.csv", "--box", "40,30,50,60", "--box", "80,20,40,40", "--video")
    assert main(line) == 0
    assert "2 boxes in 4 frames, 0 lost at the end, in" in capsys.readouterr().err
    rows = np.loadtxt(moving / "b.csv", delimiter=",", skiprows=1)
    assert rows.shape == (8, 8) and rows[:2, 2:6].tolist() == [[40, 30, 50, 60], [80, 20, 40, 40]]
    assert np.abs(rows[6, 2:6] - (34, 30, 50, 60)).max() < 6
    frames = list(read_frames(moving / "b.mp4"))
    assert len(frames) == 4 and frames[0].shape == (120, 160, 3)


def test_points(moving, capsys):
    (moving / "points.txt").write_text("80 60\n100.5, 30\n")
    assert main(words(moving, "p.csv", "--points", str(moving / "points.txt"))) == 0
    assert "2 points in 4 frames, 2 visible in the last, in" in capsys.readouterr().err
    rows = np.loadtxt(moving / "p.csv", delimiter=",", skiprows=1)
    assert np.abs(rows[-2:, 2:4] - ((74, 60), (94.5, 30))).max() < 1
    grid = words(moving, "g.npz", "--points", "grid", "--step", "40", "--frames", "1:3")
    assert main([*grid, "--video"]) == 0
    with np.load(moving / "g.npz") as file:
        assert file["points"].shape == (2, 3 * 4, 2)
    assert len(list(read_frames(moving / "g.mp4"))) == 2


@pytest.mark.parametrize(
    "output, more, message",
    [
        ("b.csv", ["--box", "1,2,3"], "--box must be X,Y,WIDTH,HEIGHT in pixels, got '1,2,3'"),
        ("b.csv", ["--box", "140,2,30,30"], "a box must lie in the frame of 160 x 120 pixels"),
        ("b.csv", ["--box", "nan,2,30,30"], "a box must be four finite numbers"),
        ("b.csv", [], "expected either --box, once or several times, or --points"),
        ("b.csv", ["--box", "1,2,9,9", "--points", "grid"], "expected either --box"),
        ("p.txt", ["--points", "grid"], "expected a name ending in one of .csv, .npz"),
        ("p.csv", ["--points", "no.txt"], "no.txt does not exist"),
        ("b.csv", ["--box", "1,2,9,9", "--model", "no"], "no weights named 'no' ship"),
        ("p.csv", ["--points", "grid", "--quality", "no"], "quality must be fast, good, best"),
    ],
)
def test_bad_input_is_one_line(moving, capsys, output, more, message):
    assert main(words(moving, output, *more)) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and err.startswith("error: ") and "\n" not in err
    assert not (moving / output).exists()


def test_unreadable_videos(moving, capsys):
    (moving / "clip.avi").write_bytes(b"RIFF" + bytes(100))
    assert main(words(moving, "b.csv", "--box", "1,2,9,9")) == 2
    assert "clip.avi is neither a video" in capsys.readouterr().err
    assert main(["track", str(moving / "none.avi"), "--box", "1,2,9,9", "-o", "b.csv"]) == 2
    assert "none.avi does not exist" in capsys.readouterr().err
