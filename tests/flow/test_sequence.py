"""The flow of a clip in files: complete, resumable, and never mixed with another run's."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from flowmatch.flow.options import FlowOptions, SequenceOptions
from flowmatch.flow.sequence import RECORD, SequenceReport, write_sequence
from flowmatch.flow.sequence_drawing import draw_sequence
from flowmatch.flow.store import STORE
from flowmatch.io.flow import read_flow, write_flow
from flowmatch.io.image import read_image, write_image
from flowmatch.io.video import read_frames


class Brightness(nn.Module):
    """Returns the change of brightness, in grey levels, as the flow; counts its pairs."""

    def __init__(self):
        super().__init__()
        self.pairs = 0

    def forward(self, first, second):
        self.pairs += len(first)
        change = 255 * (second - first).mean(dim=(1, 2, 3))
        return [change.view(-1, 1, 1, 1).expand(-1, 2, *first.shape[2:])]


FAST = FlowOptions(quality="fast")  # the network alone
OPTIONS = SequenceOptions(FAST, weights="test")


def run(clip, out, options=OPTIONS, **settings):
    model = Brightness()
    report = write_sequence(read_frames(clip), out, model=model, options=options, **settings)
    return model, report


@pytest.mark.parametrize("batch", [1, 2, 4, 9])
def test_every_pair_once(clip, tmp_path, batch):
    model, report = run(clip, tmp_path / "out", batch=batch)
    assert (report.computed, report.kept, model.pairs) == (5, 0, 5)
    names = sorted(f.name for f in (tmp_path / "out").iterdir())
    assert names == [f"{i:06d}.flo" for i in range(5)] + [RECORD]
    for i in range(5):
        flow = read_flow(tmp_path / f"out/{i:06d}.flo")
        np.testing.assert_allclose(flow, np.full((20, 24, 2), 10.0), atol=1e-3)


@pytest.mark.parametrize("suffix", [".flo", ".png", ".npz", ".pfm"])
def test_formats(clip, tmp_path, suffix):
    run(clip, tmp_path / "out", SequenceOptions(FAST, weights="test", suffix=suffix))
    flow = read_flow(tmp_path / f"out/000004{suffix}")
    np.testing.assert_allclose(flow, np.full((20, 24, 2), 10.0), atol=1 / 64)


def test_resumes_and_overwrites(clip, tmp_path):
    run(clip, tmp_path / "out")
    for i in (1, 3):
        (tmp_path / f"out/{i:06d}.flo").unlink()
    model, report = run(clip, tmp_path / "out")
    assert (report.computed, report.kept, model.pairs) == (2, 3, 2)
    model, report = run(clip, tmp_path / "out", overwrite=True)
    assert (report.computed, report.kept) == (5, 0)


def test_interrupted_leaves_whole_files(clip, tmp_path):
    def interrupt(stage, done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(clip, tmp_path / "out", progress=interrupt)
    left = sorted((tmp_path / "out").glob("*.flo"))
    assert len(left) >= 2
    assert all(read_flow(file).shape == (20, 24, 2) for file in left)
    assert not [f for f in (tmp_path / "out").iterdir() if f.name.startswith(".")]
    _, report = run(clip, tmp_path / "out")
    assert report.computed + report.kept == 5


def test_two_runs_are_not_mixed(clip, tmp_path):
    run(clip, tmp_path / "out")
    with pytest.raises(ValueError, match=r"another run \(weights differ\)"):
        run(clip, tmp_path / "out", SequenceOptions(FAST, weights="other"))
    run(clip, tmp_path / "out", SequenceOptions(FAST, weights="other"), overwrite=True)
    assert json.loads((tmp_path / "out" / RECORD).read_text())["weights"] == "other"


@pytest.mark.parametrize("name", ["flow.mp4", "run.json", "pictures/000000.png", "000000.flo"])
def test_outputs_that_another_program_wrote_are_never_replaced(clip, tmp_path, name):
    out = tmp_path / "project"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"settings": 1}')
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=rf"holds files of something else \({name}\)"):
            run(clip, out, overwrite=overwrite)
    assert (out / name).read_text() == '{"settings": 1}'
    assert sum(path.is_file() for path in out.rglob("*")) == 1


def test_a_folder_of_something_else_is_left_alone(clip, tmp_path):
    out = tmp_path / "truth"
    out.mkdir()
    write_flow(out / "000000.flo", np.ones((20, 24, 2), np.float32))
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="holds files of something else"):
            run(clip, out, overwrite=overwrite)
    assert (read_flow(out / "000000.flo") == 1).all()


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_input_is_never_the_output(clip, overwrite):
    before = {file.name: file.read_bytes() for file in clip.iterdir()}
    with pytest.raises(ValueError, match="holds the input"):
        run(clip, clip, SequenceOptions(FAST, weights="test", suffix=".png"), overwrite=overwrite)
    assert {file.name: file.read_bytes() for file in clip.iterdir()} == before


def test_overwriting_leaves_nothing_of_a_longer_run(clip, tmp_path):
    run(clip, tmp_path / "out")
    for i in (4, 5):
        (clip / f"frame{i}.png").unlink()
    run(clip, tmp_path / "out", overwrite=True)
    assert sorted(f.name for f in (tmp_path / "out").glob("*.flo")) == [
        "000000.flo", "000001.flo", "000002.flo",
    ]  # fmt: skip


def test_overwriting_removes_what_was_drawn_and_nothing_else(clip, tmp_path):
    out = tmp_path / "out"
    run(clip, out)
    targets = {"video": out / "flow.mp4", "pictures": out / "pictures"}
    draw_sequence(read_frames(clip), out, ".flo", **targets)
    for mine in (out / "note.txt", out / "pictures/cover.png"):
        mine.write_text("mine")
    for video in (out / "flow.mp4", sorted((out / "pictures").glob("0*"))[0]):
        with pytest.raises(ValueError, match="holds the input"):
            run(video, out, overwrite=True)
    run(clip, out, overwrite=True)
    assert [file.name for file in (out / "pictures").iterdir()] == ["cover.png"]
    assert (out / "note.txt").exists()
    assert not (out / "flow.mp4").exists()


def test_a_video_of_something_else_stays(clip, tmp_path):
    (tmp_path / "flow.mp4").write_text("not of flowmatch")
    with pytest.raises(ValueError, match=r"holds files of something else \(flow.mp4\)"):
        run(clip, tmp_path, overwrite=True)  # else the next run would take it for its own
    assert (tmp_path / "flow.mp4").read_text() == "not of flowmatch"


def test_interrupted_overwriting_resumes_as_the_new_run(clip, tmp_path):
    run(clip, tmp_path / "out")

    def interrupt(stage, done, total):
        raise KeyboardInterrupt

    changed = SequenceOptions(FAST, weights="other")
    with pytest.raises(KeyboardInterrupt):
        run(clip, tmp_path / "out", changed, overwrite=True, progress=interrupt)
    model, report = run(clip, tmp_path / "out", changed)
    assert report.computed >= 4  # no file of the old run was kept
    assert report.computed + report.kept == 5


def test_changed_input_is_another_run(clip, tmp_path):
    run(clip, tmp_path / "out")
    write_image(clip / "frame3.png", np.full((20, 24, 3), 99, np.uint8))
    with pytest.raises(ValueError, match="frames differ"):
        run(clip, tmp_path / "out")


def test_a_refused_run_leaves_nothing_in_the_way(clip, tmp_path):
    warm = SequenceOptions(FAST, weights="test", warm_start=True)
    with pytest.raises(ValueError, match="takes an initial flow"):
        run(clip, tmp_path / "out", warm)
    with pytest.raises(ValueError, match="must name the weights"):
        run(clip, tmp_path / "out", SequenceOptions(FAST))
    assert not (tmp_path / "out").exists()
    _, report = run(clip, tmp_path / "out")
    assert report.computed == 5


@pytest.mark.parametrize("content", ["{", "[" * 100_000], ids=["cut", "deep"])
def test_damaged_record_is_named(clip, tmp_path, content):
    run(clip, tmp_path / "out")
    (tmp_path / "out" / RECORD).write_text(content)
    with pytest.raises(ValueError, match=r"run.json is damaged"):
        run(clip, tmp_path / "out")


def test_both_ways(clip, tmp_path):
    run(clip, tmp_path / "out", SequenceOptions(FAST, weights="test", bidirectional=True))
    assert (read_flow(tmp_path / "out/000002.flo") > 0).all()
    assert (read_flow(tmp_path / "out/000002_backward.flo") < 0).all()
    mask = read_image(tmp_path / "out/000002_occluded.png")[..., 0]
    inside = np.zeros((20, 24), bool)
    inside[:10, :14] = True  # elsewhere, ten pixels right and down are outside
    assert (mask == np.where(inside, 0, 255)).all()


def test_skipped_frames_are_reported(clip, tmp_path):
    (clip / "frame2.png").write_bytes(b"damaged")
    _, report = run(clip, tmp_path / "out")
    assert report.computed == 3
    assert len(report.skipped) == 1
    assert "frame 2" in report.skipped[0]
    names = sorted(f.name for f in (tmp_path / "out").glob("*.flo"))
    assert names == ["000000.flo", "000003.flo", "000004.flo"]  # no pair across the gap
    scale = draw_sequence(
        read_frames(clip), tmp_path / "out", ".flo", pictures=tmp_path / "pictures"
    )
    assert len(list((tmp_path / "pictures").iterdir())) == 3
    assert scale == pytest.approx(np.hypot(10, 10), rel=0.01)


def test_values_beyond_a_format_s_range_are_unknown(clip, tmp_path):
    class Far(Brightness):
        def forward(self, first, second):
            flow = super().forward(first, second)[0].clone()
            flow[..., 0, :4] = torch.tensor([1000.0, torch.nan, torch.inf, 511.95])
            return [flow]

    for suffix, lost in ((".png", 3), (".flo", 2)):
        out = tmp_path / suffix
        options = SequenceOptions(FAST, weights="far", suffix=suffix)
        report = write_sequence(read_frames(clip), out, model=Far(), options=options)
        assert report.unknown == 5 * lost
        flow = read_flow(out / f"000000{suffix}")
        assert np.isnan(flow).any(axis=2).sum() == lost
        assert flow[0, 3, 0] == pytest.approx(511.95, abs=1 / 128)


def test_one_frame_is_no_clip(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((20, 24, 3), np.uint8))
    with pytest.raises(ValueError, match="no two consecutive frames of one size$"):
        run([tmp_path / "a.png"], tmp_path / "out")


def test_two_sizes_are_no_pair(tmp_path):
    for name, width in (("a", 24), ("b", 25)):
        write_image(tmp_path / f"{name}.png", np.zeros((20, width, 3), np.uint8))
    with pytest.raises(ValueError, match="no two consecutive frames of one size .*25"):
        run([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out")


def test_weights_by_name_are_in_the_record(clip, tmp_path):
    report = write_sequence(read_frames(clip), tmp_path / "out", model="pyramid", device="cpu")
    assert report.computed == 5
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["weights"] == STORE.digest("pyramid")
    assert record["zoom"] == 1.0
    with pytest.raises(ValueError, match=r"another run \(weights differ\)"):
        write_sequence(read_frames(clip), tmp_path / "out", device="cpu")


def test_a_report_is_up_to_date_after_an_interrupt(clip, tmp_path):
    def interrupt(stage, done, total):
        assert (stage, total) == ("flow", 5)
        if done == 3:
            raise KeyboardInterrupt

    report = SequenceReport()
    with pytest.raises(KeyboardInterrupt):
        run(clip, tmp_path / "out", report=report, progress=interrupt)
    assert (report.computed, report.kept) == (3, 0)
    assert report.seconds > 0
