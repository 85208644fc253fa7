"""``flowmatch flow`` of many clips: summary, exit status, shares, interruption, wrong words."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flowmatch.cli import main
from flowmatch.cli._tree import load_command
from flowmatch.io import VideoWriter, read_flow, write_image

FAST = ["--quality", "fast", "--model", "pyramid", "--device", "cpu"]


def write_clip(path, photo, frames=3):
    with VideoWriter(path, 10) as video:
        for k in range(frames):
            video.write(np.ascontiguousarray(np.roll(photo, 2 * k, axis=1)[:64, :96]))


@pytest.fixture
def clips(tmp_path, photo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        write_clip(tmp_path / f"{name}.mp4", photo)
    write_image("picture.png", photo)
    return ["a.mp4", "b.mp4", "c.mp4"]


def test_several_videos_are_several_clips(clips, capsys):
    assert main(["flow", *clips[:2], "-o", "out", *FAST, "--pictures"]) == 0
    err = capsys.readouterr().err
    assert "2 of 2 clips done, 4 pairs, computed at " in err
    assert err.splitlines()[-1].endswith("pairs/s, in out")
    assert read_flow("out/b/000001.flo").shape == (64, 96, 2)
    words = [*clips, "none.mp4", "-o", "out", *FAST, "--pictures"]
    assert main(["flow", *words]) == 1
    lines = capsys.readouterr().err.splitlines()
    failed = [line for line in lines if line.startswith("failed: ")]
    assert len(failed) == 1
    assert failed[0].startswith("failed: none: ")
    assert failed[0].endswith("none.mp4 does not exist")
    assert "3 of 4 clips done (2 existed already), 1 failed, 6 pairs" in lines[-1]


def test_shares(clips):
    for share in ("0/2", "1/2"):
        assert main(["flow", *clips, "-o", "out", *FAST, "--shard", share]) == 0
    listed = [
        json.loads(Path(f"out/manifest-{k}-of-2.json").read_text())["clips"] for k in range(2)
    ]
    assert [[clip["folder"] for clip in share] for share in listed] == [["a", "c"], ["b"]]
    assert read_flow("out/b/000001.flo").shape == (64, 96, 2)


def test_one_clip_as_parquet(clips):
    pytest.importorskip("pyarrow")
    assert main(["flow", "a.mp4", "-o", "out", *FAST, "--format", "parquet"]) == 0
    import pyarrow.parquet

    row = pyarrow.parquet.read_table("out/a/flows.parquet").to_pylist()[1]
    flow = np.frombuffer(row["flow"], "<f4", offset=12).reshape(row["height"], row["width"], 2)
    assert np.abs(np.median(flow, axis=(0, 1)) - [2, 0]).max() < 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.mp4", "picture.png"], "clips are expected, picture.png is a picture"),
        (["picture.png", "picture.png", "--jobs", "2"], "clips are expected, picture.png is"),
        (["a.mp4", "./a.mp4"], "a.mp4 is listed twice"),
        (["a.mp4", "--shard", "2/2"], "--shard must be I/N with I from 0 to N-1, such as 0/4"),
        (["a.mp4", "--shard", "1"], "--shard must be I/N"),
        (["a.mp4", "b.mp4", "--device", "cuda:99"], "cuda:99 is not here"),
        (["a.mp4", "b.mp4", "--model", "none"], "no weights named 'none'"),
        (["a.mp4", "b.mp4", "--max-flow", "-1"], "--max-flow must be"),
        (["a.mp4", "b.mp4", "--model", "pyramid", "--warm-start"], "RAFT, got PyramidNet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(words, message, clips, capsys, tmp_path):
    assert main(["flow", *words, "-o", "out"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_ray_is_named_where_it_is_missing(clips, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["flow", "a.mp4", "-o", "out", *FAST, "--ray"]) == 2
    assert "error: --ray needs Ray: pip install 'flowmatch[ray]'" in capsys.readouterr().err


def test_an_address_is_for_ray(clips, capsys, monkeypatch):
    assert main(["flow", "a.mp4", "-o", "out", *FAST, "--ray-address", "auto"]) == 2
    assert "--ray-address needs --ray" in capsys.readouterr().err
    names = [parameter.name for parameter in load_command("flow").params]
    assert {"jobs", "shard", "ray", "ray_address"} <= set(names)


def test_ctrl_c_ends_all_processes(tmp_path, photo):
    clips = [tmp_path / f"{name}.mp4" for name in "ab"]
    for clip in clips:
        write_clip(clip, photo, 400)
    out = tmp_path / "out"
    # A shell's background processes ignore the signal, and their children inherit that.
    begin = "import signal as s, flowmatch.cli as c; s.signal(s.SIGINT, s.default_int_handler)"
    words = [sys.executable, "-c", f"{begin}; raise SystemExit(c.main())"]
    words += ["flow", *map(str, clips), "-o", str(out), *FAST, "--jobs", "2"]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(out.glob("?/000001.flo"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)  # only ends when no child holds stderr
    assert running.returncode == 130
    assert "stopped: 0 of 2 clips done" in err
    assert "Traceback" not in err
    files = [*out.rglob("*.flo")]
    assert 2 <= len(files) < 798
    assert all(read_flow(file).shape == (64, 96, 2) for file in files[:20])
    assert not list(out.rglob(".flowmatch-*"))
    states = json.loads((out / "manifest.json").read_text())["clips"]
    assert [clip["state"] for clip in states] == ["waiting"] * 2
