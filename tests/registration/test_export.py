"""Clouds and JSON summaries of registrations."""

import json

import numpy as np
import pytest

from flowmatch.io import read_cloud
from flowmatch.registration import Edge, MultiwayRegistration, Registration
from flowmatch.registration.draw import colour_of
from flowmatch.registration.export import (
    summarize_multiway,
    summarize_registration,
    write_merged,
)

SHIFT = np.eye(4)
SHIFT[0, 3] = 2.0
FAILED = Registration(
    motion=np.eye(4),
    correspondences=np.zeros((3, 2, 3)),
    inliers=np.array([True, False, True]),
    overlap=0.0,
    support=0.0,
    rmse=float("nan"),
    voxel=0.05,
    slip_eigenvalue=0.0,
    trusted=False,
    reason="none",
)


@pytest.mark.parametrize("suffix", [".ply", ".npy"])
def test_scans_are_moved_into_one_cloud(suffix, tmp_path):
    scans = [np.zeros((2, 3)), np.ones((1, 3))]
    path = tmp_path / f"a{suffix}"
    write_merged(path, scans, [SHIFT, np.eye(4)])
    np.testing.assert_array_equal(read_cloud(path), [[2, 0, 0], [2, 0, 0], [1, 1, 1]])
    if suffix == ".ply":
        content = path.read_bytes()
        assert all(bytes(colour_of(k)) in content for k in range(2))


def test_coordinates_far_from_the_origin_keep_their_digits(tmp_path):
    far = np.full((1, 3), 5_000_000.123)
    write_merged(tmp_path / "a.npy", [far], [np.eye(4)])
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.npy"), far)


def test_summaries_are_json():
    summary = summarize_registration(FAILED)
    assert (summary["correspondences"], summary["inliers"], summary["rmse"]) == (3, 2, None)
    edge = Edge(0, 1, FAILED, float("nan"), False)
    motions, placed = np.stack([np.eye(4), SHIFT]), np.array([True, False])
    result = MultiwayRegistration(motions, placed, 0, [edge], 0.05)
    content = json.loads(json.dumps(summarize_multiway(result, ["a", "b"]), allow_nan=False))
    assert content["anchor"] == "a" and content["trusted"] is False
    assert [scan["motion"] for scan in content["scans"]] == [np.eye(4).tolist(), None]
    assert content["edges"][0]["error"] is None and content["edges"][0]["target"] == "b"
