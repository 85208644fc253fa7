"""Variational refinement: sub-pixel errors, sizes, and checks."""

import numpy as np
import pytest
import torch

from flowmatch.flow import FlowOptions, estimate_flow, refine_flow
from flowmatch.flow.synthetic.scene import Layer, Motion, Scene, translate


@pytest.fixture(scope="module")
def shifted(photo):
    """A photograph that moves by (1.6, -0.7)."""
    scene = Scene(
        (120, 161), (Layer(photo, translate(-150, -90)),), Motion(translation=(1.6, -0.7))
    )
    return [np.rint(scene.render(t).image).astype(np.uint8) for t in (0, 1)]


@pytest.fixture(scope="module")
def rough():
    """The motion with errors of about a pixel, in blocks of 4 x 4, like a network's flow."""
    noise = np.random.default_rng(0).normal(0, 0.75, (30, 41, 2)).astype(np.float32)
    return np.kron(noise, np.ones((4, 4, 1), np.float32))[:, :161] + np.float32([1.6, -0.7])


def error(flow):
    return np.linalg.norm(flow - [1.6, -0.7], axis=-1)[8:-8, 8:-8].mean()


@pytest.mark.parametrize("gray", [False, True])
def test_finds_the_rest_of_the_motion(shifted, rough, gray):
    first, second = (picture[..., 1] if gray else picture for picture in shifted)
    kept = rough.copy()
    assert error(rough) > 0.9
    assert error(refine_flow(first, second, rough)) < 0.1
    assert (rough == kept).all()


def test_estimate_flow_refines_pictures_and_tensors(shifted, rough):
    class Rough(torch.nn.Module):
        def forward(self, first, second):
            return [torch.from_numpy(rough).permute(2, 0, 1).expand(len(first), -1, -1, -1)]

    options = FlowOptions("fast", refine=True)
    assert error(estimate_flow(*shifted, model=Rough(), options=options)) < 0.2
    tensors = (torch.from_numpy(np.stack([p, p])).permute(0, 3, 1, 2) for p in shifted)
    flow = estimate_flow(*tensors, model=Rough(), options=options)
    assert flow.shape == (2, 2, 120, 161)
    assert error(flow[1].permute(1, 2, 0).numpy()) < 0.2


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (16, 99)], ids=str)
def test_small_and_odd_sizes(size):
    picture = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    assert refine_flow(picture, picture, np.zeros((*size, 2), np.float32)).shape == (*size, 2)


@pytest.mark.parametrize(
    ("first", "flow", "message"),
    [
        (np.zeros((20, 20), np.float32), np.zeros((20, 20, 2)), "uint8"),
        (np.zeros((20, 21), np.uint8), np.zeros((20, 20, 2)), "one size"),
        (np.zeros((15, 20), np.uint8), np.zeros((15, 20, 2)), "at least 16"),
        (np.zeros((20, 20), np.uint8), np.full((20, 20, 2), np.nan), "finite"),
    ],
)
def test_refuses(first, flow, message):
    second = np.zeros(flow.shape[:2], np.uint8)
    with pytest.raises(ValueError, match=message):
        refine_flow(first, second, flow.astype(np.float32))
