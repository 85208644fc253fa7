"""Flow of large images in tiles."""

import numpy as np
import pytest
import torch
from torch import nn

from flowmatch.flow import FlowOptions, estimate_both_ways, estimate_flow, load
from flowmatch.flow.options import AUTOMATIC_TILE
from flowmatch.flow.tiles import GUESSED, _starts, blend_tiles, reduced


class Colours(nn.Module):
    """Returns 100 times red and green as the flow, so that a shifted tile is detected."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, first, second):
        self.sizes.append(tuple(first.shape[-2:]))
        return [100 * first[:, :2]]


@pytest.mark.parametrize(("overlap", "tiles"), [(0, 3 * 4), (16, 3 * 4), (32, 4 * 6), (None, 12)])
def test_tiles_cover_everything(overlap, tiles):
    frame = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    model = Colours()
    flow = estimate_flow(
        frame, frame, model=model, options=FlowOptions("fast", tile=64, overlap=overlap)
    )
    np.testing.assert_allclose(flow, frame[..., :2] / 2.55, atol=1e-3)
    assert model.sizes == [(64, 64)] * tiles


def test_tiled_is_near_whole(photo):
    first, second = photo[:280, :400], np.roll(photo, 3, axis=1)[:280, :400]
    model = load("default")
    whole = estimate_flow(first, second, model=model, options=FlowOptions("fast"))
    tiled = estimate_flow(
        first, second, model=model, options=FlowOptions("fast", tile=192, overlap=64)
    )
    seam = np.abs(whole - tiled)[:, 150:250]  # where the tiles meet
    assert np.percentile(seam, 90) < 1.0


# ---- Large frames ------------------------------------------------------------------------------


class Slopes(nn.Module):
    """Measures motion by the colours of `ramps`, at any resolution and in any part of a frame."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, first, second):
        self.sizes.append(tuple(first.shape[-2:]))
        h, w = first.shape[-2:]
        x = (first[:, 0, 0, -1] - first[:, 0, 0, 0]) / (w - 1)
        y = (first[:, 1, -1, 0] - first[:, 1, 0, 0]) / (h - 1)
        return [(first - second)[:, :2] / torch.stack([x, y], dim=1)[..., None, None]]


def ramps(dx, dy, height=1500, width=2450):
    """Return two frames whose red rises to the right and green downwards, moved by (dx, dy)."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    frames = [
        np.stack([0.2 + 0.6 * (x - u) / width, 0.2 + 0.6 * (y - v) / height, 0 * x], axis=-1)
        for u, v in ((0, 0), (dx, dy))
    ]
    return [frame.astype(np.float32) for frame in frames]


TILES = [(AUTOMATIC_TILE, AUTOMATIC_TILE)] * 2 * 3


def test_large_frames_are_computed_in_tiles():
    """Tiles, after one estimate at a lower resolution for the motion of the tiles."""
    model = Slopes()
    flow = estimate_flow(*ramps(150, -60), model=model, options=FlowOptions("fast"))
    np.testing.assert_allclose(flow, np.broadcast_to(np.float32([150, -60]), flow.shape), atol=0.5)
    small, *sizes = model.sizes
    assert sizes == TILES
    assert 0.98 * GUESSED < small[0] * small[1] < 1.02 * GUESSED


def test_both_ways_of_a_batch_of_large_frames():
    """The second pair is the first one in the other direction."""
    a, b = (torch.from_numpy(frame).movedim(-1, 0) for frame in ramps(30, 20))
    pair = torch.stack([a, b]), torch.stack([b, a])
    flows = estimate_both_ways(*pair, model=Slopes(), options=FlowOptions("fast"))
    motion = torch.tensor([30.0, 20.0]).view(1, 2, 1, 1)
    expected = torch.cat([motion, -motion]).expand_as(flows.forward)
    torch.testing.assert_close(flows.forward, expected, rtol=0, atol=0.5)
    torch.testing.assert_close(flows.backward, -expected, rtol=0, atol=0.5)


def test_a_tile_as_long_as_the_frame_takes_it_whole():
    model = Slopes()
    estimate_flow(*ramps(0, 0), model=model, options=FlowOptions("fast", tile=2450))
    assert model.sizes == [(1500, 2450)]


def test_enlarged_frames_are_split_for_the_network():
    model = Slopes()
    frames = ramps(0, 0, 1000, 1000)
    estimate_flow(*frames, model=model, options=FlowOptions("fast", zoom=2))
    assert set(model.sizes) == {(AUTOMATIC_TILE, AUTOMATIC_TILE)}


def test_tiles_follow_long_motion():
    """The flow within a tile is short, except where the tile would leave the frame."""
    y, x = torch.meshgrid(torch.arange(300.0), torch.arange(400.0), indexing="ij")
    first = torch.stack([x, y])[None]
    second = first - torch.tensor([70.0, -40.0]).view(2, 1, 1)  # moved by (70, -40)
    lengths = []

    def estimate(a, b):
        flow = a - b
        lengths.append(flow.abs().max().item())
        return flow

    guess = torch.tensor([17.4, -9.9]).view(1, 2, 1, 1).expand(1, 2, 75, 100).contiguous()  # at 1/4
    flow = blend_tiles(estimate, first, second, 100, 20, guess)
    torch.testing.assert_close(flow, (first * 0) + torch.tensor([70.0, -40.0]).view(2, 1, 1))
    assert min(lengths) < 1
    assert sum(length < 1 for length in lengths) >= 6
    assert max(lengths) == 70  # at the right border


def test_small_and_narrow_frames_are_not_reduced():
    assert reduced(np.zeros((500, 1000, 3), np.uint8)) is None
    assert reduced(np.zeros((40, 50_000), np.uint8)) is None
    assert reduced(np.zeros((1000, 2000, 3), np.uint8)).shape == (500, 1000, 3)
    assert reduced(np.full((1000, 2000), 0.25))[0, 0] == 0.25
    batch = reduced(torch.full((1, 3, 1000, 2000), 7, dtype=torch.uint8))
    assert batch.shape == (1, 3, 500, 1000)
    assert batch.dtype == torch.uint8
    assert (batch == 7).all()


@pytest.mark.parametrize("size", [(50, 70), (32, 90), (20, 20)])
def test_blends_by_the_distance_from_the_border(size):
    H, W = size
    values = iter(range(100))
    total, weights = torch.zeros(H, W), torch.zeros(H, W)
    for k, (y, x) in enumerate((y, x) for y in _starts(H, 32, 8) for x in _starts(W, 32, 8)):
        for i in range(min(32, H)):
            for j in range(min(32, W)):
                weight = min(i + 1, min(32, H) - i, 9) * min(j + 1, min(32, W) - j, 9)
                total[y + i, x + j] += k * weight
                weights[y + i, x + j] += weight

    def estimate(a, b):
        return torch.full((1, 2, *a.shape[:2]), float(next(values)))

    image = np.zeros((H, W, 3), np.uint8)
    flow = blend_tiles(estimate, image, image, 32, 8)
    torch.testing.assert_close(flow[0], (total / weights).expand(2, H, W))


@pytest.mark.parametrize(
    ("size", "side"), [((1080, 1920), None), ((2160, 3840), 1024), ((4320, 7680), 768)]
)
def test_tiles_are_chosen_by_the_size(size, side):
    assert FlowOptions().tile_side(*size) == side
    assert FlowOptions(tile=512).tile_side(*size) == 512
