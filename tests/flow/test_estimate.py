"""Flow estimation: kinds of input, sizes, zoom, both directions."""

import numpy as np
import pytest
import torch
from torch import nn

from flowmatch.flow import (
    MODELS,
    FlowOptions,
    candidates,
    estimate_both_ways,
    estimate_flow,
    load,
    save_weights,
)
from flowmatch.flow.baselines import dis
from flowmatch.flow.full_resolution import to_full_resolution
from flowmatch.flow.networks import PyramidNet
from flowmatch.flow.synthetic.pairs import SyntheticFlow
from flowmatch.flow.synthetic.sources import Sources

FAST = FlowOptions(quality="fast")  # the network alone


class Constant(nn.Module):
    """Returns (4, -8) full-resolution pixels everywhere, at a quarter of the resolution."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, first, second):
        self.calls.append((first, second))
        B, _, H, W = first.shape
        flow = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1)
        return [flow.expand(B, 2, -(-H // 4), -(-W // 4))]


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 90)], ids=str)
def test_upsamples_values_with_size_and_crops(size):
    frame = np.zeros((*size, 3), np.uint8)
    flow = estimate_flow(frame, frame, model=Constant(), options=FAST)
    assert flow.shape == (*size, 2)
    assert flow.dtype == np.float32
    np.testing.assert_allclose(flow, np.broadcast_to([4.0, -8.0], flow.shape), rtol=1e-6)


@pytest.mark.parametrize(
    "picture",
    [
        np.full((20, 24), 51, np.uint8),
        np.full((20, 24, 1), 51, np.uint8),
        np.full((20, 24, 3), 51, np.uint8),
        np.full((20, 24, 3), 0.2, np.float32),
        np.full((20, 24), 0.2, np.float64),
        torch.full((1, 1, 20, 24), 51, dtype=torch.uint8),
        torch.full((1, 3, 20, 24), 0.2),
        torch.full((1, 3, 20, 24), 0.2, dtype=torch.float64),
    ],
    ids=lambda p: f"{type(p).__name__}-{tuple(p.shape)}-{p.dtype}",
)
def test_all_kinds_of_input_reach_the_model_alike(picture):
    model = Constant()
    flow = estimate_flow(picture, picture, model=model, options=FAST)
    image = model.calls[0][0]
    torch.testing.assert_close(image, torch.full((1, 3, 20, 24), 0.2))
    assert flow.shape == ((1, 2, 20, 24) if isinstance(picture, torch.Tensor) else (20, 24, 2))


def test_first_and_second_are_not_swapped():
    model = Constant()
    black, white = np.zeros((16, 16), np.uint8), np.full((16, 16), 255, np.uint8)
    estimate_flow(black, white, model=model, options=FAST)
    first, second = model.calls[0]
    assert (first.max(), second.min()) == (0, 1)


def test_negative_strides_are_fine(photo):
    mirrored = photo[:, ::-1]
    assert estimate_flow(mirrored, mirrored, model=Constant(), options=FAST).shape == (
        *photo.shape[:2],
        2,
    )


def test_a_model_of_another_type_is_refused():
    frame = np.zeros((32, 32, 3), np.uint8)
    for model in (PyramidNet().half(), PyramidNet().double()):
        with pytest.raises(ValueError, match="must be float32, got torch.* precision computes"):
            estimate_flow(frame, frame, model=model, options=FAST)


def test_to_full_resolution_is_bilinear():
    flow = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).repeat(1, 2, 1, 1)
    up = to_full_resolution(flow, 2, 4)
    torch.testing.assert_close(up[0, 0, 0], torch.tensor([0.0, 0.5, 1.5, 2.0]))


def test_default_weights_see_motion(photo):
    """The default network is far better than zero flow, and near 0 on a still pair."""
    pairs = SyntheticFlow(Sources([photo]), (192, 256), motion=((1.0, 1.0),), seed=123)
    model = load("default")
    ours, zero = [], []
    for i in range(4):
        sample = pairs[i]
        truth, visible = sample.flow, ~sample.occluded
        flow = estimate_flow(sample.first, sample.second, model=model, options=FAST)
        ours.append(np.linalg.norm(flow - truth, axis=-1)[visible].mean())
        zero.append(np.linalg.norm(truth, axis=-1)[visible].mean())
    assert np.mean(ours) < 0.4 * np.mean(zero)
    still = estimate_flow(photo, photo, model=model, options=FAST)
    assert np.linalg.norm(still, axis=-1).mean() < 0.25


def test_bfloat16_is_near_float32(photo):
    first, second = photo[:192, :256], np.roll(photo, 4, axis=1)[:192, :256]
    model = load("default")
    exact = estimate_flow(first, second, model=model, options=FAST)
    rounded = estimate_flow(
        first, second, model=model, options=FlowOptions("fast", precision="bfloat16")
    )
    assert np.median(np.abs(exact - rounded)) < 0.1


def test_both_ways():
    frame = np.zeros((32, 48, 3), np.uint8)
    both = estimate_both_ways(frame, frame, model=Constant(), options=FAST)
    assert both.forward.shape == both.backward.shape == (32, 48, 2)
    assert both.occluded.all()  # (4, -8) in both directions is inconsistent


@pytest.mark.parametrize(
    "options", [FAST, FlowOptions(refine=False), FlowOptions(with_dis=False), FlowOptions()]
)
def test_both_ways_equal_two_calls_and_compute_nothing_twice(options, photo, monkeypatch):
    frames = photo[40:104, 40:120], photo[42:106, 37:117]
    model = load("pyramid")
    forward, backward = (
        estimate_flow(*pair, model=model, options=options) for pair in (frames, frames[::-1])
    )
    runs = []
    model.register_forward_pre_hook(lambda module, images: runs.append("network"))
    monkeypatch.setattr(candidates, "dis", lambda a, b: runs.append("dis") or dis(a, b))
    both = estimate_both_ways(*frames, model=model, options=options)
    np.testing.assert_array_equal(both.forward, forward)
    np.testing.assert_array_equal(both.backward, backward)
    assert runs == ["network"] * 2 + ["dis"] * (2 if options.includes_dis else 0)


@pytest.mark.parametrize("name", MODELS)
def test_every_network_fits(name, device):
    arguments = {"width": 1 / 16} if name.startswith("flownet") else {}
    frame = np.zeros((33, 70, 3), np.uint8)
    flow = estimate_flow(
        frame, frame, model=MODELS[name](**arguments).eval(), device=device, options=FAST
    )
    assert flow.shape == (33, 70, 2)


def test_scene_cut_and_frozen_frames_do_not_crash(photo):
    black = np.zeros_like(photo)
    model = load("default")
    for pair in ((photo, black), (black, photo), (black, black)):
        assert np.isfinite(estimate_flow(*pair, model=model, options=FAST)).all()


@pytest.mark.parametrize(
    ("first", "second", "options", "message"),
    [
        (
            np.zeros((20, 20, 3), np.uint8),
            np.zeros((20, 21, 3), np.uint8),
            {},
            "one kind and shape",
        ),
        (np.zeros((20, 20, 3), np.uint8), torch.zeros(1, 3, 20, 20), {}, "ndarray.*Tensor"),
        (
            np.zeros((20, 20, 4), np.uint8),
            np.zeros((20, 20, 4), np.uint8),
            {},
            r"got \(20, 20, 4\)",
        ),
        (np.zeros((20, 20), np.int32), np.zeros((20, 20), np.int32), {}, "uint8 or float"),
        (np.full((20, 20), 255.0), np.full((20, 20), 255.0), {}, r"in \[0, 1\], got 255"),
        (np.full((20, 20), np.nan), np.full((20, 20), np.nan), {}, r"in \[0, 1\], got nan"),
        (np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8), {"precision": "int8"}, "int8"),
        (np.zeros((99, 99), np.uint8), np.zeros((99, 99), np.uint8), {"tile": 8}, "at least 64"),
        (
            np.zeros((99, 99), np.uint8),
            np.zeros((99, 99), np.uint8),
            {"tile": 64, "overlap": 33},
            "overlap must be 0 to half a tile, got 33 of 64",
        ),
        (np.zeros((15, 99), np.uint8), np.zeros((15, 99), np.uint8), {}, "at least 16.*99 x 15"),
        (np.zeros((99, 99), np.uint8), np.zeros((99, 99), np.uint8), {"device": "tpu?"}, "device"),
    ],
)
def test_refuses(first, second, options, message):
    with pytest.raises(ValueError, match=message):
        device = options.pop("device", None)
        options = FlowOptions(**options)
        estimate_flow(first, second, model=Constant(), device=device, options=options)


class Proportional(torch.nn.Module):
    """Returns a hundredth of the image's size everywhere."""

    def __init__(self):
        super().__init__()
        self.inputs = []

    def forward(self, first, second):
        H, W = first.shape[-2:]
        self.inputs.append((H, W, first.min().item(), first.max().item()))
        return [first.new_tensor([W / 100, H / 100]).view(1, 2, 1, 1).expand(len(first), 2, H, W)]


@pytest.mark.parametrize("zoom", [0.5, 1.0, 1.37, 2.0])
@pytest.mark.parametrize("tile", [None, 64])
def test_zoom_is_seen_by_the_network_alone(zoom, tile, photo):
    model, picture = Proportional(), photo[:90, :120]
    flow = estimate_flow(
        picture, picture, model=model, options=FlowOptions("fast", zoom=zoom, tile=tile)
    )
    size = (64, 64) if tile else (90, 120)
    assert flow.shape == (90, 120, 2)
    np.testing.assert_allclose(flow[..., 0], size[1] / 100, rtol=1e-5)
    np.testing.assert_allclose(flow[..., 1], size[0] / 100, rtol=1e-5)
    for height, width, low, high in model.inputs:
        assert (height, width) == (round(size[0] * zoom), round(size[1] * zoom))
        assert 0 <= low <= high <= 1


def test_zoom_leaves_enough_for_a_network():
    model, picture = Proportional(), np.zeros((20, 40, 3), np.uint8)
    assert estimate_flow(
        picture, picture, model=model, options=FlowOptions("fast", zoom=0.25)
    ).shape == (
        20,
        40,
        2,
    )
    assert model.inputs[0][:2] == (16, 16)


def test_a_model_is_a_name_a_file_or_a_network(photo, tmp_path):
    frames = photo[40:104, 40:120], photo[42:106, 37:117]
    network = load("pyramid", device="cpu")
    expected = estimate_flow(*frames, model=network, options=FAST)
    file = tmp_path / "mine.safetensors"
    save_weights(file, network, "pyramid")
    for model in ("pyramid", file, str(file)):
        np.testing.assert_array_equal(
            estimate_flow(*frames, model=model, device="cpu", options=FAST), expected
        )
    with pytest.raises(ValueError, match="no weights named 'none'"):
        estimate_flow(*frames, model="none")


def test_the_backward_flow_may_have_a_network_of_its_own():
    frame = np.zeros((32, 48, 3), np.uint8)
    forward, backward = Constant(), Proportional()
    both = estimate_both_ways(frame, frame, model=forward, backward_model=backward, options=FAST)
    assert (both.forward[0, 0] == [4, -8]).all()
    np.testing.assert_allclose(both.backward[0, 0], [0.48, 0.32], rtol=1e-5)
