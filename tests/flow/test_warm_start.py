"""Warm start: forward interpolation of the previous flow, and resumed runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flowmatch.flow import RAFTSmall
from flowmatch.flow.options import FlowOptions, SequenceOptions
from flowmatch.flow.sequence import RECORD, write_sequence
from flowmatch.flow.warm_start import WarmStarted, forward_interpolate
from flowmatch.io.flow import read_flow
from flowmatch.io.image import write_image
from flowmatch.io.video import read_frames


class Counting(nn.Module):
    """Returns the mean initial flow plus (1, 0.5), which counts consecutive warm starts."""

    def to_grid(self, flow):
        return torch.nan_to_num(flow)

    def forward(self, first, second, start=None):
        flow = torch.tensor([1.0, 0.5]).view(1, 2, 1, 1).expand(1, 2, *first.shape[2:])
        return [flow if start is None else flow + start.mean(dim=(2, 3), keepdim=True)]


FAST = FlowOptions(quality="fast")  # the network alone
WARM = SequenceOptions(FAST, weights="test", warm_start=True)


def run(clip, out, options=WARM, model=None, **settings):
    return write_sequence(
        read_frames(clip), out, model=model or Counting(), options=options, **settings
    )


def starts(out, names=range(5), suffix=".flo"):
    return [round(float(read_flow(out / f"{i:06d}{suffix}")[..., 0].mean()), 2) for i in names]


def test_each_pair_begins_with_the_previous_one(clip, tmp_path):
    report = run(clip, tmp_path / "out")
    assert report.computed == 5
    assert starts(tmp_path / "out") == [1, 2, 3, 4, 5]
    run(clip, tmp_path / "cold", SequenceOptions(FAST, weights="test"))
    assert starts(tmp_path / "cold") == [1] * 5


def test_starts_anew_after_a_skipped_frame(clip, tmp_path):
    (clip / "frame2.png").write_bytes(b"damaged")
    run(clip, tmp_path / "out")
    assert starts(tmp_path / "out", (0, 3, 4)) == [1, 1, 2]


@pytest.mark.parametrize("suffix", [".flo", ".png"])
def test_resuming_gives_the_same_files(clip, tmp_path, suffix):
    """Also in a format that rounds, because the initial flow is read from the file."""
    options = SequenceOptions(
        FAST, weights="test", suffix=suffix, bidirectional=True, warm_start=True
    )

    def interrupt(stage, done, total):
        if done == 3:
            raise KeyboardInterrupt

    frames = tmp_path / "photos"
    frames.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        write_image(frames / f"{i}.png", rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    model = RAFTSmall(iterations=2).eval()
    with pytest.raises(KeyboardInterrupt):
        run(frames, tmp_path / "out", options, model, progress=interrupt)
    report = run(frames, tmp_path / "out", options, model)
    assert report.kept > 0
    run(frames, tmp_path / "whole", options, model)
    files = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert len(files) == 5 * 4 + 1
    for name in files:
        whole, resumed = (tmp_path / folder / name for folder in ("whole", "out"))
        assert whole.read_bytes() == resumed.read_bytes(), name
    run(frames, tmp_path / "cold", replace(options, warm_start=False), model)
    for end in ("", "_backward"):
        first, later = (f"{i:06d}{end}{suffix}" for i in (0, 1))
        for name, same in ((first, True), (later, False)):
            cold, warm = (read_flow(tmp_path / folder / name) for folder in ("cold", "whole"))
            assert np.array_equal(cold, warm) is same, name


def test_warm_and_cold_runs_are_not_mixed(clip, tmp_path):
    run(clip, tmp_path / "out")
    assert json.loads((tmp_path / "out" / RECORD).read_text())["warm_start"] is True
    with pytest.raises(ValueError, match=r"another run \(warm_start differ\)"):
        run(clip, tmp_path / "out", SequenceOptions(FAST, weights="test"))


@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (nn.Conv2d(3, 2, 1), 1, "RecurrentPyramid or RAFT, got Conv2d"),
        (Counting(), 2, "batch must be 1, got 2"),
    ],
)
def test_refuses(clip, tmp_path, model, batch, message):
    with pytest.raises(ValueError, match=message):
        run(clip, tmp_path / "out", WARM, model, batch=batch)
    assert not (tmp_path / "out").exists()


def plain_interpolation(flow, direction):
    """Softmax splatting by loops, and the nearest covered pixel for each other one."""
    _, h, w = flow.shape
    total, norm, covered = np.zeros(flow.shape), np.zeros((h, w)), np.zeros((h, w))
    for y, x in np.ndindex(h, w):
        u, v = direction * flow[:, y, x]
        if not np.isfinite([u, v]).all():
            continue
        for row, column in np.ndindex(h, w):
            part = max(0, 1 - abs(x + u - column)) * max(0, 1 - abs(y + v - row))
            covered[row, column] += part
            norm[row, column] += part * np.exp(np.hypot(u, v))
            total[:, row, column] += part * np.exp(np.hypot(u, v)) * flow[:, y, x]
    places = [(y, x) for y, x in np.ndindex(h, w) if covered[y, x] > 0.25]
    assert 3 < len(places) < h * w
    candidates = np.empty((h, w), object)
    for y, x in np.ndindex(h, w):
        square = [(y - row) ** 2 + (x - column) ** 2 for row, column in places]
        near = [place for place, s in zip(places, square, strict=True) if s == min(square)]
        candidates[y, x] = [total[:, row, column] / norm[row, column] for row, column in near]
    return candidates


@pytest.mark.parametrize("direction", [1, -1])
def test_forward_interpolate_equals_plain_loops(direction):
    """On a field where some pixels leave the frame; among equally near ones any may be taken."""
    flow = 3 * torch.randn(2, 2, 7, 9)
    flow[0, :, 2, 3] = torch.nan
    interpolated = forward_interpolate(flow, direction)
    for original, moved in zip(flow.double().numpy(), interpolated.numpy(), strict=True):
        candidates = plain_interpolation(original, direction)
        for y, x in np.ndindex(7, 9):
            assert min(np.abs(moved[:, y, x] - c).max() for c in candidates[y, x]) < 1e-5


def test_forward_interpolate_a_moving_camera():
    """Everything moves by (3, 1), and a marked part, of larger motion, moves in front of it."""
    flow = torch.tensor([3.0, 1.0]).view(1, 2, 1, 1).repeat(1, 1, 8, 12)
    flow[0, 0, 2:4, 2:6] = 5
    interpolated = forward_interpolate(flow)[0]
    marked = torch.zeros(8, 12, dtype=torch.bool)
    marked[3:5, 7:11] = True
    assert (interpolated[0][marked] > 4.7).all()  # 5, and a little of what is behind
    uncovered = torch.zeros(8, 12, dtype=torch.bool)
    uncovered[3:5, 5:7] = True  # filled from either side
    torch.testing.assert_close(interpolated[0][~marked & ~uncovered], torch.full((84,), 3.0))
    torch.testing.assert_close(interpolated[1], torch.ones(8, 12))


def test_forward_interpolate_nothing():
    """Zero where all pixels left the frame, or none is known."""
    for value in (100.0, torch.nan):
        assert (forward_interpolate(torch.full((1, 2, 4, 4), value)) == 0).all()


def test_forward_interpolate_keeps_slow_pixels_beside_a_wild_one():
    flow = torch.ones(1, 2, 6, 6)
    flow[0, :, 3, 3] = 300
    torch.testing.assert_close(forward_interpolate(flow), torch.ones(1, 2, 6, 6))


def test_warm_started_networks_begin_on_their_grid():
    """A constant previous flow of (8, 0) is an initial flow of one grid pixel to the right."""
    model = RAFTSmall(iterations=2).eval()
    previous = np.zeros((40, 56, 2), np.float32)
    previous[..., 0] = 8
    pair = torch.rand(2, 1, 3, 40, 56)
    start = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    with torch.no_grad():
        result = WarmStarted(model, previous)(*pair)[0]
        torch.testing.assert_close(result, model(*pair, start)[0])
        assert not torch.allclose(result, model(*pair)[0])
