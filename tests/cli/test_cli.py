"""The command line as a user meets it: through main, with exit codes and one clear line."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import typer

from flowmatch.cli import main
from flowmatch.cli._run import resumable
from flowmatch.flow import MODELS, FlowNet2, RAFTSmall
from flowmatch.io import VideoWriter
from flowmatch.io.flow import read_flow
from flowmatch.io.image import read_image, write_image


@pytest.fixture
def pair(tmp_path, photo):
    for name, shift in (("a", 0), ("b", 3)):
        picture = np.roll(photo, shift, axis=1)[60:188, 60:252]
        write_image(tmp_path / f"{name}.png", picture)
    return [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def test_two_images(pair, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["flow", *pair, str(out), "--pictures"]) == 0
    flow = read_flow(out / "000000.flo")
    assert flow.shape == (128, 192, 2)
    assert np.abs(np.median(flow, axis=(0, 1)) - [3, 0]).max() < 1
    assert read_image(out / "pictures/000000.png").shape == (128, 192, 3)
    assert "1 pair at" in capsys.readouterr().err


def test_best_is_short_for_three_options(pair, tmp_path):
    for name, options in (("best", ["--best"]), ("long", ["--zoom", "2", "--with-dis", "--refine"])):
        assert main(["flow", *pair, str(tmp_path / name), *options]) == 0
    flows = [read_flow(tmp_path / name / "000000.flo") for name in ("best", "long")]
    assert np.array_equal(*flows)
    assert np.abs(np.median(flows[0], axis=(0, 1)) - [3, 0]).max() < 0.05


def test_video_with_options(tmp_path, photo, capsys):
    with VideoWriter(tmp_path / "clip.avi", rate=10) as video:
        for i in range(8):
            video.write(np.ascontiguousarray(np.roll(photo, 4 * i, axis=1)[:128, :160]))
    out = tmp_path / "out"
    words = [str(tmp_path / "clip.avi"), str(out), "--every", "2", "--start", "1", "--stop", "6"]
    words += ["--scale", "0.5", "--format", "npz", "--video", "--batch", "2", "--bidirectional"]
    assert main(["flow", *words]) == 0
    assert read_flow(out / "000001.npz").shape == (64, 80, 2)
    assert not (out / "000002.npz").exists()  # frames 1, 3, 5: two pairs
    assert (out / "flow.mp4").stat().st_size > 0
    capsys.readouterr()
    assert main(["flow", *words]) == 0
    assert "0 pairs, 2 were there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["flow", "missing.mp4", "out"], "missing.mp4"),
        (["flow", "only-one"], "an INPUT and an OUTPUT"),
        (["flow", "{a}", "{b}", "out", "--format", "gif"], "flo, png, npz, pfm, got 'gif'"),
        (["flow", "{a}", "{b}", "out", "--model", "raft"], "no weights named 'raft'"),
        (["flow", "{a}", "{b}", "out", "--weights", "none.safetensors"], "none.safetensors"),
        (["flow", "{a}", "{b}", "out", "--device", "cuda:99"], "cuda:99 is not here"),
        (["flow", "{a}", "{b}", "out", "--device", "toaster"], "toaster"),
        (["flow", "{a}", "{b}", "out", "--scale", "0"], "scale"),
        (["flow", "{a}", "{b}", "out", "--stop", "0"], "stop"),
        (["flow", "{a}", "{b}", "out", "--tile", "3"], "at least 64"),
        (["flow", "{a}", "{b}", "{a}"], "must be a folder"),
        (["flow", "{a}", "{b}", ""], "an INPUT and an OUTPUT"),
        (["flow", "{a}", "{b}", "."], "holds the input"),
        (["flow", "{a}", "{b}", "out", "--device", "meta"], "got 'meta'"),
        (["flow", "{a}", "{b}", "out", "--scale", "1e300"], "scale"),
        (["flow", "{a}", "{b}", "out.flo"], "OUTPUT must be a folder, out.flo ends as a file does"),
        (["flow", "{a}", "{b}", "x/out.MP4"], "OUTPUT must be a folder, x/out.MP4 ends as a file"),
        (["flow", "{a}", "{b}", "out", "--scale", "1000"], "scale 1000 makes frames of"),
        (["flow", "{a}", "{b}", "out", "--max-flow", "nan"], "--max-flow"),
        (["flow", "{a}", "{b}", "out", "--precision", "int8"], "int8"),
        (["flow", "99999999999999999999", "out"], "number of a camera"),
        (["bench", "--device", "cuda:99"], "cuda:99 is not here"),
        (["bench", "--json", "nofolder/x.json"], "no folder for nofolder"),
        (["bench", "--html", "nofolder/x.html"], "no folder for nofolder"),
        (["bench", "correlation", "--shape", "1,2"], "is B,C,H,W,radius,stride, as integers"),
        (["bench", "--shape", "1,2"], "--shape needs one op by name"),
        (["bench", "--from", "{a}"], "is not what `flowmatch bench --json` writes"),
        (
            ["train", "flow", "--recipe", "pyramid-small", "--out", "r", "--precision", "int8"],
            "got 'int8'",
        ),
        (["train", "flow", "--recipe", "nonsense", "--out", "runs"], "got 'nonsense'"),
        (["synth", "flow", "--sheet", "x.png", "--photos", "nowhere"], "nowhere"),
        (["eval", "flow", "nowhere"], "nowhere"),
        (["bench", "nonsense"], "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_2(words, message, pair, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word.format(a=pair[0], b=pair[1]) for word in words]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    lines = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "Traceback" not in captured.err


def test_ctrl_c_leaves_whole_files_and_resumes(tmp_path, photo):
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(60):
        write_image(frames / f"{i}.png", np.ascontiguousarray(np.roll(photo, i, axis=1)))
    out = tmp_path / "out"
    # What a shell starts in the background ignores the signal, and hands that down.
    begin = "import signal as s, flowmatch.cli as c; s.signal(s.SIGINT, s.default_int_handler)"
    words = [sys.executable, "-c", f"{begin}; raise SystemExit(c.main())"]
    words += ["flow", str(frames), str(out)]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(out.glob("*.flo")) and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "stopped:" in said
    assert "Traceback" not in said
    left = [file.name for file in out.iterdir() if file.name != "run.json"]
    assert 1 <= len(left) < 59
    for name in left:
        assert read_flow(out / name).shape == photo.shape[:2] + (2,)
    assert main(["flow", str(frames), str(out)]) == 0
    assert len(list(out.glob("*.flo"))) == 59


@pytest.mark.parametrize("words", [["flow", "--no-such-option"], ["nonsense"]])
def test_bad_usage_is_exit_2(words, capsys):
    assert main(words) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["flow"], ["eval", "flow"], ["train", "flow"], ["bench"],
                                   ["weights"], ["weights", "convert"]])  # fmt: skip
def test_help(words, capsys):
    assert main([*words, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_info(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "flowmatch 0.1.0" in text
    assert any("correlation" in line and "compiled" in line for line in text.splitlines())
    assert "pyramid (flow, default): " in text
    assert "spin (registration" in text
    assert "align-fit (align" in text


def test_weights(tmp_path, photo, capsys):
    """What ships is listed; a published checkpoint is converted, and starts warm on a clip."""
    assert main(["weights", "list"]) == 0
    listed = capsys.readouterr().out
    assert listed.startswith("recurrent-pyramid (flow, default): RecurrentPyramid")
    for line in ("hardnet-half (matching", "spin (registration", "align-fit (align"):
        assert f"\n{line}" in listed
    torch.save(RAFTSmall(iterations=1).state_dict(), tmp_path / "raft.pth")
    ours = tmp_path / "raft.safetensors"
    sizes = []
    for words in ([], ["--float32"]):
        assert main(["weights", "convert", str(tmp_path / "raft.pth"), str(ours), *words]) == 0
        assert "torchvision's raft_small, as raft-small, in " in capsys.readouterr().err
        sizes.append(ours.stat().st_size)
    assert sizes[1] - sizes[0] == pytest.approx(2 * 990_162, rel=0.01)  # bytes
    for i in range(3):
        write_image(tmp_path / f"{i}.png", np.roll(photo, 2 * i, axis=1)[:64, :96])
    pictures = [str(tmp_path / f"{i}.png") for i in range(3)]
    out = tmp_path / "out"
    words = ["flow", *pictures, str(out), "--weights", str(ours), "--warm-start"]
    assert main(words) == 0
    assert read_flow(out / "000001.flo").shape == (64, 96, 2)
    assert json.loads((out / "run.json").read_text())["warm_start"] is True
    assert main(["flow", *pictures, str(tmp_path / "no"), "--warm-start"]) == 2
    assert "such as RAFT, got RecurrentPyramid" in capsys.readouterr().err
    assert main(["weights", "convert", str(tmp_path / "no.pth"), str(ours)]) == 2
    assert "there is no checkpoint at" in capsys.readouterr().err


def test_weights_of_a_stack(tmp_path, photo, monkeypatch, capsys):
    """A published FlowNet2 is converted, and used. A thin one: a whole one takes long."""
    monkeypatch.setitem(MODELS, "flownet2", partial(FlowNet2, width=1 / 16))
    torch.save({"state_dict": FlowNet2(width=1 / 16).state_dict()}, tmp_path / "c.pth.tar")
    ours = tmp_path / "flownet2.safetensors"
    assert main(["weights", "convert", str(tmp_path / "c.pth.tar"), str(ours)]) == 0
    assert "NVIDIA's FlowNet2, as flownet2, in " in capsys.readouterr().err
    pictures = [tmp_path / f"{i}.png" for i in range(2)]
    for i, path in enumerate(pictures):
        write_image(path, np.roll(photo, 2 * i, axis=1)[:64, :90])
    out = tmp_path / "out"
    assert main(["flow", *map(str, pictures), str(out), "--weights", str(ours)]) == 0
    assert read_flow(out / "000000.flo").shape == (64, 90, 2)


def test_synth_sheet(tmp_path):
    """The device paints the same pairs."""
    words = ["synth", "flow", "--count", "2", "--sheet"]
    assert main([*words, str(tmp_path / "a.png")]) == 0
    assert main([*words, str(tmp_path / "b.png"), "--render", "device", "--device", "cpu"]) == 0
    one, other = (read_image(tmp_path / name) for name in ("a.png", "b.png"))
    height, width, _ = one.shape
    assert height > 2 * 192
    assert width > 4 * 256
    assert np.abs(one.astype(int) - other).mean() < 1
    assert main([*words, str(tmp_path / "c.png"), "--render", "gpu"]) == 2


@pytest.mark.parametrize(
    ("workers", "render"), [("0", "workers"), ("0", "device"), ("1", "device")]
)
def test_train_stops_and_resumes(workers, render, tmp_path, monkeypatch, capsys):
    from flowmatch.flow import load
    from flowmatch.flow.training.recipes import RECIPES
    from flowmatch.training import Schedule

    tiny = replace(RECIPES["pyramid-small"], schedule=Schedule(2, batch=1), size=(64, 64))
    monkeypatch.setitem(RECIPES, "tiny", tiny)
    words = ["train", "flow", "--recipe", "tiny", "--out", str(tmp_path)]
    words += ["--workers", workers, "--render", render]
    assert main(words) == 0
    assert "step 2/2" in capsys.readouterr().err
    assert type(load(weights=tmp_path / "tiny.safetensors")).__name__ == "PyramidNet"
    assert main(words) == 2
    assert "--resume, or another --out" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0


def test_what_ctrl_c_says_is_there(tmp_path, capsys):
    file = tmp_path / "tiny.pt"
    for expected in ("nothing was done that could go on", f"--resume goes on from {file}"):
        with pytest.raises(typer.Exit), resumable(file):
            raise KeyboardInterrupt
        assert capsys.readouterr().err == f"stopped; {expected}\n"
        file.touch()


def test_bench_writes_rows_and_a_page(tmp_path, capsys):
    file, page = tmp_path / "rows.json", tmp_path / "page.html"
    words = ["bench", "correlation", "--rounds", "2", "--shape", "1,8,12,16,2,1"]
    assert main([*words, "--json", str(file), "--html", str(page)]) == 0
    content = json.loads(file.read_text())
    rows = content["rows"]
    assert {row["pass"] for row in rows} == {"forward", "forward+backward"}
    assert {row["implementation"] for row in rows} >= {"flowmatch", "torch: row matmul"}
    assert all(row["agrees"] and row["median_ms"] > 0 for row in rows)
    assert content["versions"]["torch"] and content["ceilings"]["gflops"] > 0
    assert "1,8,12,16,2,1" in capsys.readouterr().out
    assert page.read_text().count("<rect") == len(rows)

    page.unlink()  # and again from the file
    assert main(["bench", "--from", str(file), "--markdown", "--html", str(page)]) == 0
    assert "| correlation | 1,8,12,16,2,1, float32 | forward |" in capsys.readouterr().out
    assert page.read_text().count("<rect") == len(rows)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory.\nTried to"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["numpy", "cuda", "cpu"],
)
def test_too_little_memory_is_one_line(error, pair, tmp_path, capsys, monkeypatch):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("flowmatch.cli.flow.write_sequence", fails)
    assert main(["flow", *pair, str(tmp_path / "out")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: there is not enough memory")


def test_other_errors_of_torch_are_not_hidden(pair, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr("flowmatch.cli.flow.write_sequence", fails)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["flow", *pair, str(tmp_path / "out")])


@pytest.mark.filterwarnings("default:skipped")
def test_a_broken_photo_is_one_line_though_a_worker_reads_it(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    words = ["--out", str(tmp_path / "out"), "--photos", str(tmp_path / "photos")]
    assert main(["train", "flow", "--recipe", "pyramid-small", *words]) == 2
    last = capsys.readouterr().err.strip().splitlines()
    assert "Original Traceback" not in last
    assert last[-1].startswith("error: none of 20 pictures chosen at random can be read")
    assert f"{tmp_path}/photos/broken.jpg is damaged" in last[-1]
