"""Recordings, with a mock of rerun that keeps its calls."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from flowmatch.cli import main
from flowmatch.geometry import transform_points
from flowmatch.io import write_cloud
from flowmatch.registration import RegisterOptions, register_scans
from flowmatch.registration.recording import record_merged, record_registration
from tests.registration.scenes import motion, part, room


class Stream:
    last = None

    def __init__(self, name):
        self.name, self.step, self.calls, self.closed = name, None, [], False
        Stream.last = self

    def save(self, path):
        self.path = Path(path)

    def set_time(self, timeline, *, sequence):
        self.step = (timeline, sequence)

    def log(self, entity, value, *, static=False):
        self.calls.append((None if static else self.step, entity, value))

    def disconnect(self):
        self.closed = True
        self.path.write_bytes(b"RRF2")


@pytest.fixture
def rerun(monkeypatch):
    module = ModuleType("rerun")
    module.__spec__ = ModuleSpec("rerun", None)
    module.RecordingStream = Stream
    module.Points3D = lambda points, colors: SimpleNamespace(points=points, colors=colors)
    module.LineStrips3D = lambda lines, colors: SimpleNamespace(lines=lines, colors=colors)
    module.Transform3D = lambda translation, mat3x3: SimpleNamespace(t=translation, r=mat3x3)
    monkeypatch.setitem(sys.modules, "rerun", module)


def test_before_and_after(rerun, tmp_path):
    cloud = room()
    first, second = part(cloud, 0, 2.6), transform_points(motion(1), part(cloud, 0.7, 3.3, 1))
    result = register_scans(first, second, model="fpfh", options=RegisterOptions(voxel=0.06))
    record_registration(tmp_path / "a.rrd", first, second, result)
    assert (tmp_path / "a.rrd").read_bytes() == b"RRF2" and Stream.last.closed
    logged = {(step, entity): value for step, entity, value in Stream.last.calls}
    np.testing.assert_allclose(logged[None, "source"].points, first, atol=1e-6)
    assert logged[None, "source"].colors != logged[None, "target"].colors
    np.testing.assert_array_equal(logged[("step", 0), "source"].r, np.eye(3))
    np.testing.assert_array_equal(logged[("step", 1), "source"].t, result.motion[:3, 3])
    lines = [logged[("step", step), "correspondences/right"].lines for step in (0, 1)]
    assert len(lines[0]) == result.inliers.sum()
    lengths = [np.linalg.norm(line[:, 0] - line[:, 1], axis=1).max() for line in lines]
    assert lengths[1] < 0.2 < lengths[0]
    wrong = logged[("step", 1), "correspondences/wrong"].lines
    assert len(wrong) == (~result.inliers).sum()


def test_several_scans(rerun, tmp_path):
    motions = [np.eye(4), motion(2)]
    record_merged(tmp_path / "b.rrd", [np.zeros((1, 3))] * 2, motions, ["a", "b"])
    logged = {(step, entity): value for step, entity, value in Stream.last.calls}
    np.testing.assert_array_equal(logged[("step", 1), "b"].t, motions[1][:3, 3])
    np.testing.assert_array_equal(logged[("step", 0), "b"].t, np.zeros(3))


def test_a_failure_leaves_no_file(rerun, tmp_path):
    with pytest.raises(ValueError):
        record_merged(tmp_path / "b.rrd", [np.zeros((1, 3))], [np.eye(4)], ["a", "b"])
    assert Stream.last.closed and not list(tmp_path.iterdir())


def test_the_command_reports_a_missing_package_before_it_works(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rerun", None)
    write_cloud(tmp_path / "a.ply", np.eye(3))
    scan = str(tmp_path / "a.ply")
    assert main(["register", scan, scan, "--rerun", str(tmp_path / "a.rrd")]) == 2
    assert "needs rerun-sdk: pip install 'flowmatch[rerun]'" in capsys.readouterr().err
