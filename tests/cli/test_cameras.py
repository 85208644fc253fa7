"""Cameras from the command line: every form gives the same numbers."""

import pytest

from flowmatch.cli._cameras import parse_camera

LINE = "3 PINHOLE 640 480 500 510 320.5 240.5"


@pytest.mark.parametrize(
    "content",
    ["500,510,320,240", LINE, f"# Camera list\n{LINE}\n", "500 0 320\n0 510 240\n0 0 1\n"],
)
def test_forms(tmp_path, content):
    (tmp_path / "camera.txt").write_text(content)
    assert parse_camera(str(tmp_path / "camera.txt")) == (500, 510, 320, 240)
    if "\n" not in content:
        assert parse_camera(content) == (500, 510, 320, 240)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{LINE}\n{LINE}\n", "camera.txt: expected one camera, got 2 lines"),
        ("1 RADIAL 9 9 9 4 4 0 0", "without distortion, SIMPLE_PINHOLE or PINHOLE, got RADIAL"),
        ("500,510,nan,240", "finite numbers"),
        ("1" * 70000, "the intrinsics of one camera, got 70000 bytes"),
        ("hello", "camera.txt"),
    ],
)
def test_bad_files(tmp_path, content, message):
    (tmp_path / "camera.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        parse_camera(str(tmp_path / "camera.txt"))
