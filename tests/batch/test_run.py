"""Runs over many clips: files, resume, shares, processes, failures, and copies of remote files."""

import json
import multiprocessing
import os
import signal
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from flowmatch.batch import BatchReport, ClipOptions, write_clips
from flowmatch.flow import FlowOptions, SequenceOptions
from flowmatch.io import read_flow, write_image
from tests.batch.conftest import NAMES, OPTIONS, digests, write_clip


def run(clips, output, options=OPTIONS, **others):
    return write_clips(clips, output, options=options, device="cpu", **others)


def test_files_and_statistics(serial):
    for speed, name in enumerate(NAMES, 1):
        files = sorted(file.name for file in (serial / name).iterdir())
        assert files == ["000000.flo", "000001.flo", "000002.flo", "pairs.csv", "run.json"]
        rows = np.genfromtxt(serial / name / "pairs.csv", delimiter=",", names=True)
        assert rows["pair"].tolist() == [0, 1, 2]
        assert {*rows["width"], *rows["height"]} == {96, 64}
        assert rows["known"].tolist() == [1, 1, 1]
        assert np.abs(rows["mean_u"] - speed).max() < 0.5
        flow = read_flow(serial / name / "000001.flo").astype(float)
        length = np.hypot(flow[..., 0], flow[..., 1])
        expected = [flow[..., 1].mean(), length.mean(), np.median(length), length.max()]
        names = ["mean_v", "mean_magnitude", "median_magnitude", "max_magnitude"]
        assert [rows[name][1] for name in names] == pytest.approx(expected, rel=1e-5)
    manifest = json.loads((serial / "manifest.json").read_text())["clips"]
    assert [entry["folder"] for entry in manifest] == NAMES
    assert {(entry["state"], entry["pairs"]) for entry in manifest} == {("done", 3)}


def test_what_is_whole_is_skipped_and_what_is_missing_is_computed(clips, tmp_path):
    first = run(clips[:2], tmp_path)
    before = digests(tmp_path)
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.flo")}
    (tmp_path / "monday/street/000001.flo").unlink()
    again = run(clips[:2], tmp_path)
    assert [clip.computed for clip in first.reports] == [3, 3]
    assert [(clip.pairs, clip.computed) for clip in again.reports] == [(3, 1), (3, 0)]
    assert digests(tmp_path) == before
    changed = {file for file in times if file.stat().st_mtime_ns != times[file]}
    assert changed == {tmp_path / "monday/street/000001.flo"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [("{", "--overwrite"), ("[1]", "something else"), ('{"finished": 3}', "something else")],
)
def test_a_damaged_mark_is_no_mark(damage, message, clips, tmp_path):
    """The flows may be those of another run."""
    run(clips[:1], tmp_path)
    (tmp_path / "street/run.json").write_text(damage)
    assert message in run(clips[:1], tmp_path).failed[0].error
    report = run(clips[:1], tmp_path, replace(OPTIONS, overwrite=True))
    assert [clip.computed for clip in report.reports] == ([3] if damage == "{" else [0])


def test_other_options_are_another_run(clips, tmp_path):
    run(clips[:1], tmp_path)
    before = digests(tmp_path)
    report = run(clips[:1], tmp_path, replace(OPTIONS, stride=2))
    assert "flows of another run (frames differ)" in report.failed[0].error
    assert json.loads((tmp_path / "manifest.json").read_text())["clips"][0]["state"] == "failed"
    del before["manifest.json"]
    assert before.items() <= digests(tmp_path).items()


def test_drawings_are_added_and_kept(clips, tmp_path):
    run(clips[:1], tmp_path)
    drawn = replace(OPTIONS, pictures=True, video=True, max_flow=4)
    assert run(clips[:1], tmp_path, drawn).reports[0].computed == 0
    pictures = sorted((tmp_path / "street/pictures").iterdir())
    assert len(pictures) == 3
    time = pictures[0].stat().st_mtime_ns
    run(clips[:1], tmp_path, drawn)
    run(clips[:1], tmp_path)
    assert pictures[0].stat().st_mtime_ns == time
    run(clips[:1], tmp_path, replace(drawn, max_flow=8))  # other colours
    assert pictures[0].stat().st_mtime_ns != time


def test_shares_give_the_same_files(clips, serial, tmp_path):
    for index in range(3):
        run(clips, tmp_path, shard=(index, 3))
    expected, files = digests(serial), digests(tmp_path)
    manifests = [f"manifest-{index}-of-3.json" for index in range(3)]
    listed = [json.loads((tmp_path / m).read_text())["clips"] for m in manifests]
    assert [[c["folder"] for c in clips] for clips in listed] == [
        [NAMES[0], NAMES[3]], [NAMES[1]], [NAMES[2]],
    ]  # fmt: skip
    assert files.keys() - set(manifests) == expected.keys() - {"manifest.json"}
    assert all(files[name] == expected[name] for name in expected if name != "manifest.json")


def test_failures_do_not_end_the_run(clips, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "frames").mkdir()
    write_image(tmp_path / "frames/0.png", np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "out/street").mkdir(parents=True)
    (tmp_path / "out/street/pairs.csv").write_text("mine")
    listed = [tmp_path / "text.mp4", tmp_path / "none.mp4", tmp_path / "frames", *clips[:1]]
    report = run([*listed, clips[2], "nonsense://x"], tmp_path / "out")
    errors = {clip.name: clip.error for clip in report.reports}
    assert "is neither a video" in errors["text"]
    assert errors["none"].endswith("none.mp4 does not exist")
    assert "no two consecutive frames" in errors["frames"]
    assert "holds files of something else (pairs.csv)" in errors["street"]
    assert "Protocol not known: nonsense" in errors["x"]
    assert errors["tree"] == ""
    assert all("\n" not in error for error in errors.values())
    assert (tmp_path / "out/street/pairs.csv").read_text() == "mine"
    states = json.loads((tmp_path / "out/manifest.json").read_text())["clips"]
    assert [entry["state"] for entry in states] == ["failed"] * 4 + ["done", "failed"]


def test_an_interrupt_leaves_a_manifest_and_whole_files(clips, serial, tmp_path):
    def interrupt(stage, done, total):
        if report.pairs == 5:
            raise KeyboardInterrupt

    report = BatchReport()
    with pytest.raises(KeyboardInterrupt):
        run(clips, tmp_path, report=report, progress=interrupt)
    states = [c["state"] for c in json.loads((tmp_path / "manifest.json").read_text())["clips"]]
    assert states == ["done", "waiting", "waiting", "waiting"]
    assert not (tmp_path / "sunday/street/pairs.csv").exists()
    run(clips, tmp_path)
    assert digests(tmp_path) == digests(serial)


def test_processes_of_which_one_is_killed(clips, serial, tmp_path):
    """The clip of the killed one fails, the others go on; the next run completes it."""
    killed = []

    def kill_once(stage, done, total):
        if report.pairs >= 2 and not killed:
            killed.append(multiprocessing.active_children()[0])
            os.kill(killed[0].pid, signal.SIGKILL)

    report = BatchReport()
    run(clips, tmp_path, jobs=2, report=report, progress=kill_once)
    assert len(report.reports) == 4
    assert [clip.error for clip in report.failed] == ["its process ended by SIGKILL"]
    assert not multiprocessing.active_children()
    again = run(clips, tmp_path)
    assert [clip.error for clip in again.reports] == [""] * 4
    assert digests(tmp_path) == digests(serial)


@pytest.mark.parametrize("kind", ["zip", "memory"])
def test_remote_files(kind, clips, serial, tmp_path, photo):
    fsspec = pytest.importorskip("fsspec")
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
            archive.write(clips[0], "in/street.mp4")
        url = f"zip://in/street.mp4::file://{tmp_path}/clips.zip"
    else:
        url = "memory://bucket/street.mp4"
        fsspec.filesystem("memory").pipe_file("/bucket/street.mp4", clips[0].read_bytes())
    out = tmp_path / "out"
    assert run([url], out).reports[0].computed == 3
    for pair in range(3):
        flow = out / f"street/{pair:06d}.flo"
        assert flow.read_bytes() == (serial / f"monday/street/{pair:06d}.flo").read_bytes()
    record = json.loads((out / "street/run.json").read_text())
    assert record["source"] == url
    assert run([url], out).reports[0].computed == 0  # known without a copy
    missing = run([url.replace("street.mp4", "none.mp4")], out)
    assert "none.mp4" in missing.failed[0].error


def test_parquet(clips, serial, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    options = replace(OPTIONS, parquet=True)
    assert run(clips[:2], tmp_path, options).reports[0].computed == 3
    folder = tmp_path / "monday/street"
    assert sorted(file.name for file in folder.iterdir()) == ["flows.parquet", "run.json"]
    rows = parquet.read_table(folder / "flows.parquet").to_pylist()
    csv = np.genfromtxt(serial / "monday/street/pairs.csv", delimiter=",", names=True)
    for pair, row in enumerate(rows):
        assert (row["clip"], row["pair"]) == ("monday/street", pair)
        assert row["flow"] == (serial / f"monday/street/{pair:06d}.flo").read_bytes()
        assert row["mean_u"] == pytest.approx(csv["mean_u"][pair], rel=1e-5)
    before = digests(tmp_path)
    assert [clip.computed for clip in run(clips[:2], tmp_path, options).reports] == [0, 0]
    assert digests(tmp_path) == before
    # After the mark, the files of the flows may be left.
    (folder / "000000.flo").write_bytes(rows[0]["flow"])
    run(clips[:2], tmp_path, options)
    assert digests(tmp_path) == before
    assert run(clips[:2], tmp_path, replace(options, stride=2)).failed  # another run


def test_parquet_of_both_directions(photo, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_clip(tmp_path / "a.mp4", photo, 2, frames=2)
    sequence = SequenceOptions(
        FlowOptions(quality="fast"), suffix=".png", bidirectional=True, confidence=True
    )
    options = ClipOptions(sequence, model="pyramid", parquet=True)
    assert run([tmp_path / "a.mp4"], tmp_path / "out", options).failed == []
    table = parquet.read_table(tmp_path / "out/a/flows.parquet")
    assert table.column_names[-6:] == [
        "flow", "backward", "occluded", "occluded_backward", "confidence", "confidence_backward",
    ]  # fmt: skip
    assert all(table[name][0].as_py().startswith(b"\x89PNG") for name in table.column_names[-6:])


def test_wrong_arguments(clips, tmp_path):
    for arguments, message in (
        ({"jobs": 0}, "jobs must be 1 or more processes, got 0"),
        ({"shard": (2, 2)}, "got 2 of 2"),
        ({"options": replace(OPTIONS, model="none")}, "no weights named 'none'"),
    ):
        with pytest.raises(ValueError, match=message):
            run(clips, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="batch must be"):
        replace(OPTIONS, batch=0)
    with pytest.raises(ValueError, match="max_flow must be"):
        replace(OPTIONS, max_flow=float("nan"))
