"""Flow of large images in tiles."""

import numpy as np
import pytest
from torch import nn

from flowmatch.flow import (
    FlowOptions,
    estimate_flow,
    load,
)


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
