"""The work behind the tabs: the files are those that the package's functions give."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import flowmatch as fm
from flowmatch.app.tasks import (
    alignment_of_pictures,
    flow_of_clip,
    flow_of_pictures,
    matches_of_pictures,
    panorama_of_photos,
    registration_of_scans,
)
from flowmatch.app.tasks.result import show
from flowmatch.matching.files import read_matches
from flowmatch.registration import register_many

FAST = fm.FlowOptions(quality="fast")


@pytest.fixture(scope="module")
def frames(tmp_path_factory, photo):
    """Four frames of a picture that moves by 3 and 1 pixels, as files."""
    folder = tmp_path_factory.mktemp("frames")
    paths = []
    for k in range(4):
        path = folder / f"frame {k}.png"
        fm.io.write_image(path, photo[40 + k : 136 + k, 100 + 3 * k : 228 + 3 * k])
        paths.append(path)
    return paths


def _names(result):
    return [file.name for file in result.files]


def test_flow_is_that_of_estimate_flow(frames, tmp_path):
    stages = []
    result = flow_of_pictures(
        *frames[:2], folder=tmp_path, quality="fast", progress=lambda *update: stages.append(update)
    )
    expected = fm.estimate_flow(*map(fm.io.read_image, frames[:2]), options=FAST)
    flow = fm.io.read_flow(tmp_path / "flow.flo")
    assert np.array_equal(flow, expected)
    assert np.abs(np.median(flow, axis=(0, 1)) - (-3, -1)).max() < 0.3
    assert _names(result)[:3] == ["flow.flo", "flow_backward.flo", "flow_colours.png"]
    assert all(file.stat().st_size for file in result.files)
    assert [shown.caption.partition(":")[0] for shown in result.shown][:4] == [
        "Flow", "Arrows on the first picture", "Occlusion", "Confidence",
    ]  # fmt: skip
    first, warped = (fm.io.read_image(result.shown[k].file).astype(float) for k in (4, 5))
    assert np.abs(warped - first)[8:-8, 8:-8].mean() < 6  # the second one differs by more than 20
    assert dict(result.facts)["Median motion"] == f"{np.median(np.hypot(*flow.T)):.2f} px"
    assert [stage for stage, _, _ in stages] == ["estimating the flow both ways", "drawing"]


def test_flow_takes_format_and_scale(frames, tmp_path):
    result = flow_of_pictures(
        *frames[:2], folder=tmp_path, quality="fast", format="npz", max_flow=7.5
    )
    assert _names(result)[0] == "flow.npz"
    assert "full colour is 7.5 px" in result.shown[0].caption


def test_flow_refuses_pictures_of_two_sizes(frames, tmp_path, photo):
    fm.io.write_image(tmp_path / "large.png", photo)
    with pytest.raises(ValueError, match="same size, got 128 x 96 pixels and 451 x 300 pixels"):
        flow_of_pictures(frames[0], tmp_path / "large.png", folder=tmp_path)


def test_a_damaged_picture_is_named(frames, tmp_path):
    (tmp_path / "bad.png").write_bytes(frames[0].read_bytes()[:500])
    for task in (flow_of_pictures, matches_of_pictures, alignment_of_pictures):
        with pytest.raises(ValueError, match=r"bad\.png"):
            task(frames[0], tmp_path / "bad.png", folder=tmp_path)


def test_a_picture_of_too_many_pixels_is_refused(tmp_path):
    fm.io.write_image(tmp_path / "wide.png", np.zeros((200, 300), np.uint8))
    code = (
        "import sys; from pathlib import Path\n"
        "from flowmatch.app.tasks.result import read_picture\n"
        "read_picture(Path(sys.argv[1]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "wide.png"], capture_output=True, text=True,
        env=os.environ | {"OPENCV_IO_MAX_IMAGE_PIXELS": "50000"},
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].endswith("wide.png has too many pixels")


def test_large_pictures_are_shown_reduced(tmp_path):
    shown = show(tmp_path / "wide.png", np.zeros((50, 3200, 3), np.uint8), "black")
    assert fm.io.read_image(shown.file).shape == (50, 3200, 3)
    assert fm.io.read_image(shown.reduced).shape == (25, 1600, 3)
    assert show(tmp_path / "small.png", np.zeros((5, 7, 3), np.uint8), "black").reduced is None


def test_clip_writes_a_video_and_all_flows(frames, tmp_path):
    done = []
    result = flow_of_clip(
        [frames[2], frames[0], frames[3], frames[1]], folder=tmp_path, quality="fast",
        longest_side=0, progress=lambda *update: done.append(update),
    )  # fmt: skip
    assert _names(result) == ["flow.mp4", "flows.zip"]
    assert fm.io.read_frames(result.files[0]).count == 3
    with zipfile.ZipFile(result.files[1]) as packed:
        assert packed.namelist() == ["000000.flo", "000001.flo", "000002.flo"]
        packed.extract("000001.flo", tmp_path)
    expected = fm.estimate_flow(*map(fm.io.read_image, frames[1:3]), options=FAST)
    np.testing.assert_allclose(fm.io.read_flow(tmp_path / "000001.flo"), expected, atol=1e-4)
    assert ("flow", 3, 3) in done
    assert ("drawing", 3, 3) in done


def test_clip_is_reduced_and_cut(frames, tmp_path):
    result = flow_of_clip(
        frames, folder=tmp_path, quality="fast", longest_side=64, start=1, count=2,
        confidence=True,
    )  # fmt: skip
    facts = dict(result.facts)
    assert facts["Pairs of frames"] == "1"
    assert facts["Size of the frames"] == "64 x 48 pixels"


def test_matches_are_those_of_match_images(frames, tmp_path):
    result = matches_of_pictures(frames[0], frames[3], folder=tmp_path, model="rootsift")
    a, b = (fm.io.read_image(frames[k]) for k in (0, 3))
    expected = fm.match_images(a, b, model="rootsift")
    matches = read_matches(tmp_path / "matches.npz")
    assert np.array_equal(matches.matches, expected.matches)
    np.testing.assert_allclose(matches.matrix, expected.matrix)
    np.testing.assert_allclose(matches.matrix[:2, 2], (-9, -3), atol=0.5)
    assert result.trusted
    assert result.summary.endswith("matches agree on a homography.")
    assert _names(result) == ["matches.png", "matches.csv", "matches.json", "matches.npz"]


def test_matches_of_nothing_are_not_trusted(frames, tmp_path):
    fm.io.write_image(tmp_path / "black.png", np.zeros((60, 80, 3), np.uint8))
    result = matches_of_pictures(
        frames[0], tmp_path / "black.png", folder=tmp_path, model="rootsift"
    )
    assert not result.trusted
    assert result.summary == "0 matches; no homography agrees with them."
    result = matches_of_pictures(*frames[:2], folder=tmp_path, model="rootsift", geometry="none")
    assert result.trusted
    assert "no geometric model was fitted" in result.summary


def test_panorama_reports_what_it_left_out(photo, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    photos = [tmp_path / f"{name}.png" for name in ("left", "right", "other")]
    for path, picture in zip(photos, (photo[:, :300], photo[:, 150:], noise), strict=True):
        fm.io.write_image(path, picture)
    result = panorama_of_photos(photos, folder=tmp_path, motion="affine", format="png")
    assert result.summary == "1 panorama of 2 of the 3 photos."
    height, width = fm.io.read_image(tmp_path / "panorama.png").shape[:2]
    assert abs(width - 451) < 5
    assert abs(height - 300) < 5
    assert [note.partition(": ")[2].partition(":")[0] for note in result.notes] == ["other.png"]
    assert json.loads((tmp_path / "cameras.json").read_text())["motion"] == "affine"
    with pytest.raises(ValueError, match=r"no two of the 2 photos .* other\.png"):
        panorama_of_photos(photos[1:], folder=tmp_path)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Three positions of the same points, as files, and the points."""
    folder = tmp_path_factory.mktemp("scans")
    scan = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    paths = [folder / name for name in ("a.ply", "b.ply", "c.npy")]
    for path, shift in zip(paths, ((0, 0, 0), (5, 6, 7), (-3, 2, 1)), strict=True):
        fm.io.write_cloud(path, scan + np.array(shift, np.float32))
    return paths


SCAN_OPTIONS = {"model": "fpfh", "voxel": 0.2}


def test_the_first_scan_is_moved_onto_the_second(scans, tmp_path):
    result = registration_of_scans(scans[:2], folder=tmp_path, **SCAN_OPTIONS)
    assert _names(result) == ["moved.ply", "merged.ply", "motion.json", "before_and_after.png"]
    motion = np.array(json.loads((tmp_path / "motion.json").read_text())["motion"])
    a, b = map(fm.io.read_cloud, scans[:2])
    expected = fm.register_scans(a, b, model="fpfh", options=fm.RegisterOptions(voxel=0.2))
    np.testing.assert_allclose(motion, expected.motion)
    np.testing.assert_allclose(motion[:3, 3], (5, 6, 7), atol=0.01)
    np.testing.assert_allclose(fm.io.read_cloud(tmp_path / "moved.ply"), b, atol=0.01)
    assert len(fm.io.read_cloud(tmp_path / "merged.ply")) == 800
    assert result.summary.startswith("Registration accepted" if expected.trusted else "Registr")
    assert result.trusted == expected.trusted


def test_more_scans_are_merged(scans, tmp_path):
    result = registration_of_scans(scans, folder=tmp_path, **SCAN_OPTIONS)
    expected = register_many(
        [fm.io.read_cloud(path) for path in scans], model="fpfh",
        options=fm.RegisterOptions(voxel=0.2),
    )  # fmt: skip
    count = int(expected.placed.sum())
    assert result.summary.startswith(f"{count} of 3 scans moved onto")
    assert len(fm.io.read_cloud(tmp_path / "merged.ply")) == 400 * count
    assert len(result.facts) == len(expected.edges)
    assert result.trusted == expected.trusted


def test_one_scan_is_not_enough(scans, tmp_path):
    with pytest.raises(ValueError, match="two or more scans are needed, got 1"):
        registration_of_scans(scans[:1], folder=tmp_path)


def test_alignment_is_that_of_align_images(frames, tmp_path):
    result = alignment_of_pictures(frames[0], frames[3], folder=tmp_path, cells=4)
    a, b = (fm.io.read_image(frames[k]) for k in (0, 3))
    expected = fm.align_images(a, b)
    warped = expected.warp(b)
    assert np.array_equal(fm.io.read_image(tmp_path / "warped.png"), warped)
    board = fm.io.read_image(tmp_path / "checkerboard.png")
    assert np.array_equal(board, fm.draw.checkerboard(a, warped, 4))
    assert result.trusted == expected.found
    assert json.loads((tmp_path / "transform.json").read_text())["found"] == expected.found
    assert dict(result.facts)["Points that agree"] == f"{expected.inliers:.0%}"
    x, y = expected.points([(0, 0)])[0]
    assert dict(result.facts)["Corner, upper left"].startswith(f"at ({x:.1f}, {y:.1f})")
