"""Shares of right and of wrong registrations that are trusted."""

import json

import cv2
import numpy as np
import pytest

from flowmatch.cli import main
from flowmatch.geometry import transform_points
from flowmatch.io import write_cloud
from flowmatch.registration.data.datasets import find_posed_scans
from flowmatch.registration.evaluation.trust import find_scans, measure_trust, share_interval
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.synthetic.cases import CASES, Case
from tests.registration.scenes import motion, part, room


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return two folders with a pair each, of two different rooms."""
    root = tmp_path_factory.mktemp("pairs")
    for k in range(2):
        folder, cloud = root / f"room{k}", room(k)
        folder.mkdir()
        write_cloud(folder / "src.npy", part(cloud, 0, 3))
        write_cloud(folder / "ref.npy", transform_points(motion(k), part(cloud, 0.5, 4, 1)))
        np.save(folder / "gt.npy", motion(k))
    return [root / "room0", root / "room1"]


def test_an_interval_of_a_share():
    # R: binom.test(27, 30)$conf.int
    np.testing.assert_allclose(share_interval(27, 30), (0.7347, 0.9789), atol=1e-4)
    assert share_interval(0, 0) == (0.0, 1.0)
    assert share_interval(5, 5)[1] == 1.0


def test_verdicts_are_counted(folders, monkeypatch):
    """Two methods: one is always right and sure, one always wrong and sure."""
    truth = motion(5)
    scan = part(room(), 0, 4)
    cases = {
        "same": lambda seed, index: Case(scan, transform_points(truth, scan), truth),
        "none": lambda seed, index: Case(scan, transform_points(truth, scan), None),
    }
    monkeypatch.setattr("flowmatch.registration.evaluation.trust.CASES", cases)
    shifted = truth.copy()
    shifted[:3, 3] += 0.01
    methods = {
        "right": lambda source, target, views, options: (shifted, True),
        "wrong": lambda source, target, views, options: (np.eye(4), True),
        "unsure": lambda source, target, views, options: (truth, False),
    }
    rows = {(row.method, row.kind): row for row in measure_trust(methods, rendered=3)}
    assert len(rows) == 6
    row = rows["right", "same"]
    assert (row.pairs, row.right, row.right_trusted, row.wrong_trusted) == (3, 3, 3, 0)
    assert row.error == pytest.approx(0.01 * 3**0.5, rel=1e-6)
    row = rows["wrong", "same"]
    assert (row.right, row.wrong, row.right_trusted, row.wrong_trusted) == (0, 3, 0, 3)
    assert np.isnan(row.error)
    assert rows["unsure", "same"].right_trusted == 0
    assert rows["right", "none"].wrong_trusted == 3  # no motion may be trusted there


def test_pairs_of_folders(folders):
    seen = []

    def look(source, target, views, options):
        seen.append((source, target))
        return np.eye(4), False

    rows = measure_trust({"look": look}, folders=folders, pairs=2)
    assert {row.kind: row.pairs for row in rows} == {"overlap": 2, "two places": 2}
    names = [(scan.scene, scan.name) for scan in find_posed_scans(folders[0])]
    assert names == [("room0", "src"), ("room0", "ref")]


def test_the_command(folders, tmp_path, capsys):
    words = ["--trust", "--pairs-per-kind", "1", "--model", "fpfh", "--voxel", "0.06"]
    out = tmp_path / "trust.json"
    assert main(["eval", "registration", *map(str, folders), *words, "--json", str(out)]) == 0
    rows = {row["kind"]: row for row in json.loads(out.read_text())["trust"]}
    assert rows["overlap"]["right"] == rows["overlap"]["right_trusted"] == 1
    assert rows["overlap"]["error"] < 0.02
    assert rows["two places"]["wrong_trusted"] == 0
    assert "95 %" in capsys.readouterr().out
    assert main(["eval", "registration", "--trust"]) == 2
    assert "a FOLDER is needed" in capsys.readouterr().err


def test_rendered_cases_have_names():
    assert len(CASES) == 6
    with pytest.raises(ValueError, match="are needed"):
        measure_trust({}, options=RegisterOptions())


def test_frames_are_integrated_into_scans(tmp_path):
    """Five frames of a wall, three to a scan; the rest of two is long enough for another one."""
    (tmp_path / "depth").mkdir()
    (tmp_path / "intrinsics.txt").write_text("40 0 15.5\n0 40 11.5\n0 0 1\n")
    lines = []
    for k in range(5):
        pose = np.eye(4)
        pose[0, 3] = 0.1 * k
        lines.append(" ".join(map(str, [k, *pose.ravel()])))
        cv2.imwrite(str(tmp_path / f"depth/{k}.png"), np.full((24, 32), 1000, np.uint16))
    (tmp_path / "poses.txt").write_text("\n".join(lines))
    assert len(find_scans(tmp_path)) == 5
    scans = find_scans(tmp_path, 3)
    assert [scan.name for scan in scans] == ["0", "3"]
    assert scans[1].pose[0, 3] == pytest.approx(0.3)
    for scan, width in zip(scans, (1.0, 0.9), strict=True):
        points = scan.read()
        np.testing.assert_allclose(points[:, 2], 1, atol=2e-3)
        assert np.ptp(points[:, 0]) == pytest.approx(width, abs=0.08)
    with pytest.raises(ValueError, match="frames_per_fragment must be positive, got 0"):
        find_scans(tmp_path, 0)
