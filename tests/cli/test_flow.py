"""``flowmatch flow``: files, options, interruption, and messages about bad input."""

import json
import signal
import subprocess
import sys
import time
import warnings
from functools import partial

import numpy as np
import pytest
import torch

from flowmatch._opencv import cv2
from flowmatch.cli import main
from flowmatch.flow import MODELS, FlowNet2, RAFTSmall
from flowmatch.flow.store import STORE
from flowmatch.io import VideoWriter, read_flow, read_image, write_image


@pytest.fixture
def pair(tmp_path, photo):
    for name, shift in (("a", 0), ("b", 3)):
        picture = np.roll(photo, shift, axis=1)[60:188, 60:252]
        write_image(tmp_path / f"{name}.png", picture)
    return [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def test_two_images(pair, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["flow", *pair, "-o", str(out), "--pictures"]) == 0
    flow = read_flow(out / "000000.flo")
    assert flow.shape == (128, 192, 2)
    assert np.abs(np.median(flow, axis=(0, 1)) - [3, 0]).max() < 1
    assert read_image(out / "pictures/000000.png").shape == (128, 192, 3)
    assert "1 pair at" in capsys.readouterr().err


@pytest.mark.parametrize(("quality", "limit"), [("fast", 1.0), ("good", 0.1), ("best", 0.1)])
def test_quality(quality, limit, pair, tmp_path):
    out = tmp_path / "out"
    assert main(["flow", *pair, "-o", str(out), "--quality", quality]) == 0
    flow = read_flow(out / "000000.flo")
    assert np.abs(np.median(flow, axis=(0, 1)) - [3, 0]).max() < limit
    assert json.loads((out / "run.json").read_text())["quality"] == quality


def test_switches_replace_parts_of_the_quality(pair, tmp_path):
    for name, options in (
        ("short", []),
        ("long", ["--quality", "fast", "--with-dis", "--refine"]),
        ("other", ["--no-with-dis"]),
    ):
        assert main(["flow", *pair, "-o", str(tmp_path / name), *options]) == 0
    short, long, other = (
        read_flow(tmp_path / name / "000000.flo") for name in ("short", "long", "other")
    )
    assert np.array_equal(short, long)
    assert not np.array_equal(short, other)


def test_video_with_options(tmp_path, photo, capsys):
    with VideoWriter(tmp_path / "clip.avi", rate=10) as video:
        for i in range(8):
            video.write(np.ascontiguousarray(np.roll(photo, 4 * i, axis=1)[:128, :160]))
    out = tmp_path / "out"
    words = [str(tmp_path / "clip.avi"), "-o", str(out), "--stride", "2", "--frames", "1:6"]
    words += ["--scale", "0.5", "--format", "npz", "--video", "--batch", "2", "--bidirectional"]
    assert main(["flow", *words]) == 0
    assert read_flow(out / "000001.npz").shape == (64, 80, 2)
    assert not (out / "000002.npz").exists()  # frames 1, 3, 5: two pairs
    assert (out / "flow.mp4").stat().st_size > 0
    capsys.readouterr()
    assert main(["flow", *words]) == 0
    assert "0 pairs, 2 existed already" in capsys.readouterr().err


OUT = ["-o", "out"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.mp4", *OUT], "missing.mp4"),
        (["only-one"], "no output folder: add -o FOLDER"),
        (["{a}", "{b}", "out"], "no output folder: add -o FOLDER; is it out?"),
        (["{a}", "{b}"], "no output folder: add -o FOLDER"),
        (["{a}", *OUT], "one picture given, {a}: a flow needs two or more"),
        (["{a}", "", *OUT], "an INPUT is empty"),
        (["{a}", "{b}", *OUT, "--format", "gif"], "flo, png, npz, pfm, parquet, got 'gif'"),
        (["{a}", "{b}", *OUT, "--model", "raft"], "no weights named 'raft'"),
        (["{a}", "{b}", *OUT, "--weights", "none.safetensors"], "none.safetensors"),
        (["{a}", "{b}", *OUT, "--weights", "x.pth"], "there is no file of weights at x.pth"),
        (["{a}", "{b}", *OUT, "--model", "x.ckpt"], "there is no file of weights at x.ckpt"),
        (["{a}", "{b}", *OUT, "--device", "cuda:99"], "cuda:99 is not here"),
        (["{a}", "{b}", *OUT, "--device", "toaster"], "toaster"),
        (["{a}", "{b}", *OUT, "--device", "meta"], "got 'meta'"),
        (["{a}", "{b}", *OUT, "--scale", "0"], "scale"),
        (["{a}", "{b}", *OUT, "--scale", "1e300"], "scale"),
        (["{a}", "{b}", *OUT, "--scale", "1000"], "scale 1000 makes frames of"),
        (["{a}", "{b}", *OUT, "--frames", "0:0"], "stop"),
        (["{a}", "{b}", *OUT, "--frames", "5"], "--frames must be FIRST:STOP"),
        (["{a}", "{b}", *OUT, "--stride", "0"], "stride"),
        (["{a}", "{b}", *OUT, "--tile", "3"], "at least 64"),
        (["{a}", "{b}", *OUT, "--tile", "64", "--overlap", "40"], "overlap must be 0 to half"),
        (["{a}", "{b}", "-o", "{a}"], "--output must be a folder, {a} is a file"),
        (["{a}", "{b}", "-o", "/dev/null"], "--output must be a folder, /dev/null is a file"),
        (["{a}", "{b}", "-o", "/dev/null/x"], "error: /dev/null/x: not a directory\n"),
        (["{a}", "{b}", "-o", "."], "holds the input"),
        (
            ["{a}", "{b}", "-o", "out.flo"],
            "must be a folder, out.flo is named like a file",
        ),
        (["{a}", "{b}", "-o", "x/out.MP4"], "must be a folder, x/out.MP4 is named like a file"),
        (["{a}", "{b}", *OUT, "--max-flow", "nan"], "--max-flow"),
        (["{a}", "{b}", *OUT, "--precision", "int8"], "int8"),
        (["{a}", "{b}", *OUT, "--quality", "finest"], "fast, good, best, got 'finest'"),
        (["{a}", "{b}", *OUT, "--model", "pyramid", "--warm-start"], "RAFT, got PyramidNet"),
        (["99999999999999999999", *OUT], "number of a camera"),
        (["rtsp://127.0.0.1:9/stream", *OUT], "rtsp://127.0.0.1:9/stream cannot be opened"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(words, message, pair, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"a": pair[0], "b": pair[1]}
    assert main(["flow", *(word.format(**names) for word in words)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message.format(**names) in err
    assert err.count("\n") == 1  # and no progress bar before it
    assert not list(tmp_path.glob("out/*.flo"))


# Where a run is held at its fourth pair, so that Ctrl-C meets it there on any machine: before the
# network computes, or while the file has its temporary name; the first file is run.json.
_HELD = {
    "computing": "flowmatch.flow.sequence._estimate",
    "writing": "flowmatch.io._files._reach_storage",
}
_HOLD = """
import importlib, signal, sys, threading
from pathlib import Path
import flowmatch.cli
interrupted = threading.Event()
def interrupt(number, frame):
    interrupted.set()
    raise KeyboardInterrupt
# Set because a shell's background processes ignore the signal, and their children inherit that.
signal.signal(signal.SIGINT, interrupt)
place, calls, sign = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
module, name = place.rsplit(".", 1)
module = importlib.import_module(module)
usual = getattr(module, name)
def held(*arguments):
    global calls
    calls -= 1
    if not calls:
        sign.touch()
        interrupted.wait()
    return usual(*arguments)
setattr(module, name, held)
sys.exit(flowmatch.cli.main(sys.argv[4:]))
"""


@pytest.mark.parametrize(("place", "calls", "done"), [("computing", 4, 3), ("writing", 5, 4)])
def test_ctrl_c_leaves_whole_files_and_resumes(place, calls, done, tmp_path, photo):
    frames, out, sign = tmp_path / "frames", tmp_path / "out", tmp_path / "held"
    frames.mkdir()
    for i in range(8):
        part = np.roll(photo, i, axis=1)[60:124, 60:156]
        write_image(frames / f"{i}.png", np.ascontiguousarray(part))
    command = ["flow", str(frames), "-o", str(out), "--quality", "fast"]
    words = [sys.executable, "-c", _HOLD, _HELD[place], str(calls), str(sign), *command]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while not sign.exists() and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate()
    assert running.returncode == 130
    assert "stopped:" in err
    assert "Traceback" not in err
    files = sorted(file.name for file in out.iterdir())  # and none with a temporary name
    assert files == [*(f"{i:06d}.flo" for i in range(done)), "run.json"]
    for name in files[:-1]:
        assert read_flow(out / name).shape == (64, 96, 2)
    assert main(command) == 0
    assert len(list(out.glob("*.flo"))) == 7


def test_a_converted_checkpoint_starts_warm_on_a_clip(tmp_path, photo):
    torch.save(RAFTSmall(iterations=1).state_dict(), tmp_path / "raft.pth")
    weights = str(tmp_path / "raft.safetensors")
    assert main(["weights", "convert", str(tmp_path / "raft.pth"), "-o", weights]) == 0
    for i in range(3):
        write_image(tmp_path / f"{i}.png", np.roll(photo, 2 * i, axis=1)[:64, :96])
    pictures = [str(tmp_path / f"{i}.png") for i in range(3)]
    out = tmp_path / "out"
    words = ["flow", *pictures, "-o", str(out), "--weights", weights, "--warm-start"]
    assert main(words) == 0
    assert read_flow(out / "000001.flo").shape == (64, 96, 2)
    assert json.loads((out / "run.json").read_text())["warm_start"] is True


@pytest.mark.parametrize("white", [None, 4095])
def test_a_stack_of_12_bits(white, photo, tmp_path, capsys, monkeypatch):
    """Rows of a folder and pages of a file; without --white, they are 16 times too dark."""
    pages = [
        np.roll(photo, 3 * k, axis=1)[60:124, 60:156, 1].astype(np.uint16) * 16 for k in range(3)
    ]
    (tmp_path / "frames").mkdir()
    for k, page in enumerate(pages):
        cv2.imwrite(str(tmp_path / f"frames/{k}.png"), page)
    cv2.imwritemulti(str(tmp_path / "stack.tif"), pages)
    monkeypatch.chdir(tmp_path)
    options = ["--quality", "fast", *(["--white", str(white)] if white else [])]
    for source in ("frames", "stack.tif"):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("default")
            assert main(["flow", source, "-o", f"{source}.out", *options]) == 0
        assert any("--white 4095" in str(warning.message) for warning in told) == (white is None)
        flow = read_flow(f"{source}.out/000001.flo")
        error = np.abs(np.median(flow, axis=(0, 1)) - [3, 0]).max()
        assert error < 0.5 or white is None
    assert main(["flow", "frames", "-o", "frames.out", "--white", "1023"]) == 2
    assert "flows of another run" in capsys.readouterr().err


def test_weights_of_a_stack(tmp_path, photo, monkeypatch, capsys):
    """A published FlowNet2 is converted and used; a thin one, because a full one takes long."""
    for models in (MODELS, STORE.models):
        monkeypatch.setitem(models, "flownet2", partial(FlowNet2, width=1 / 16))
    torch.save({"state_dict": FlowNet2(width=1 / 16).state_dict()}, tmp_path / "c.pth.tar")
    weights = tmp_path / "flownet2.safetensors"
    assert main(["weights", "convert", str(tmp_path / "c.pth.tar"), "-o", str(weights)]) == 0
    assert "NVIDIA's FlowNet2, as flownet2, in " in capsys.readouterr().err
    pictures = [tmp_path / f"{i}.png" for i in range(2)]
    for i, path in enumerate(pictures):
        write_image(path, np.roll(photo, 2 * i, axis=1)[:64, :90])
    out = tmp_path / "out"
    assert main(["flow", *map(str, pictures), "-o", str(out), "--weights", str(weights)]) == 0
    assert read_flow(out / "000000.flo").shape == (64, 90, 2)


def test_an_unwritable_folder_is_named(pair, capsys, monkeypatch):
    assert main(["flow", *pair, "-o", "/proc/none/out"]) == 2
    err = capsys.readouterr().err
    assert "/proc/none" in err
    assert err.splitlines()[-1].startswith("error: ")
