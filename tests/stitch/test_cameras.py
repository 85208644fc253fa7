"""Files of cameras: numbers come back unchanged, and damaged files are rejected."""

import json

import numpy as np
import pytest

from flowmatch.stitch import Camera, Cameras, read_cameras, turn_view
from flowmatch.stitch.cameras import assign_cameras

from .conftest import turn


def rig(*names):
    cameras = [
        Camera(name, (640, 480), 500 / 3 + k, 1.25, (319.5, 240 / 7), turn(10 * k, 3, 1))
        for k, name in enumerate(names)
    ]
    return Cameras("rotation", "spherical", tuple(cameras), 1 / 3)


def test_round_trip(tmp_path):
    cameras = rig("a.jpg", "b/ä.jpg")
    cameras.write(tmp_path / "c.json")
    again = read_cameras(tmp_path / "c.json")
    assert (again.motion, again.projection, again.error) == ("rotation", "spherical", 1 / 3)
    for actual, expected in zip(again.cameras, cameras.cameras, strict=True):
        assert actual[:5] == expected[:5]
        np.testing.assert_array_equal(actual.matrix, expected.matrix)
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="x"), "not a file of cameras: expected format"),
        (lambda d: d.pop("photos"), "'photos' is missing"),
        (lambda d: d.update(photos=[]), "expected a list of photos"),
        (lambda d: d.update(motion="fish"), "motion must be one of rotation, affine"),
        (lambda d: d["photos"][0].update(width=0), "expected a size in pixels, got 0 x 480"),
        (lambda d: d["photos"][0].update(width=10**9), "expected a size in pixels"),
        (lambda d: d["photos"][0].update(focal=float("nan")), "expected 4 finite numbers"),
        (lambda d: d["photos"][0].update(focal=-1), "focal and aspect must be positive"),
        (lambda d: d["photos"][0].update(matrix=[[1, 2], [3, 4]]), "expected 9 finite numbers"),
        (lambda d: d["photos"][0].update(matrix=(2 * np.eye(3)).tolist()), "expected a rotation"),
        (lambda d: d.update(motion="affine"), "expected an affine map"),
        (lambda d: d["photos"].append(3), "damaged"),
    ],
)
def test_damaged_files(tmp_path, change, message):
    file = tmp_path / "c.json"
    rig("a.jpg").write(file)
    contents = json.loads(file.read_text())
    change(contents)
    file.write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=message):
        read_cameras(file)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8\xff", b"[1, 2]", b'{"format": 1}', b"[" * 9999]
)
def test_other_files(tmp_path, content):
    file = tmp_path / "c.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="not a file of cameras"):
        read_cameras(file)


def test_cameras_by_name_or_order():
    cameras = rig("a", "b")
    sizes = [(640, 480)] * 2
    assert [c.name for c in assign_cameras(cameras, ["b", "a"], sizes)] == ["b", "a"]
    assert [c.name for c in assign_cameras(cameras, ["x", "a"], sizes)] == ["a", "b"]
    assert [c.name for c in assign_cameras(cameras, ["a", "a"], sizes)] == ["a", "b"]


def test_other_resolutions():
    camera = rig("a").cameras[0]
    half = camera.of_size((320, 240))
    assert half.focal == camera.focal / 2
    # Corners of photos coincide, not centres of pixels.
    assert half.centre[0] == 319.5 / 2 - 0.25
    np.testing.assert_allclose(half.intrinsics(), camera.intrinsics(0.5))
    with pytest.raises(ValueError, match="640 x 480 pixels, .* got 640 x 360"):
        camera.of_size((640, 360))


def test_affine_at_other_scales():
    matrix = np.array([[0.9, -0.1, 30], [0.1, 0.9, -12], [0, 0, 1.0]])
    camera = Camera("a", (640, 480), 1.0, 1.0, (0.0, 0.0), matrix)
    # The corner between the first four pixels of the photo, at both scales.
    full, half = matrix @ (-0.5, -0.5, 1), camera.affine(0.5) @ (-0.5, -0.5, 1)
    np.testing.assert_allclose((full[:2] + 0.5) / 2, half[:2] + 0.5)


def test_a_view_is_turned():
    """A camera that looks where the view is turned to looks straight ahead, and is level."""
    camera = Camera("a.jpg", (640, 480), 500.0, 1.0, (319.5, 239.5), turn(20, -7, 3))
    turned = turn_view(Cameras("rotation", "spherical", (camera,), 0.1), 20, -7, 3)
    np.testing.assert_allclose(turned.cameras[0].matrix, np.eye(3), atol=1e-12)
    # To the right, upwards, clockwise: the axes are x right, y down, z forward.
    straight = Cameras("rotation", "plane", (camera._replace(matrix=np.eye(3)),), 0.1)
    right, up, clockwise = (
        turn_view(straight, *angles).cameras[0].matrix for angles in np.diag([10, 10, 10])
    )
    assert right[0, 2] < -0.1 and up[1, 2] > 0.1 and clockwise[1, 0] < -0.1
    with pytest.raises(ValueError, match="affine cameras"):
        turn_view(straight._replace(motion="affine"), 1, 0, 0)
