"""Flow networks: the published shapes and names, and the contract that all of them keep."""

import pytest
import torch

from flowmatch.flow.networks import (
    MODELS,
    FlowNet2,
    FlowNet2CS,
    FlowNet2CSS,
    FlowNet2SD,
    FlowNetC,
    FlowNetS,
    PyramidNet,
)
from flowmatch.flow.networks.padding import pad_to_multiple
from flowmatch.flow.networks.pyramid import convex_upsample
from flowmatch.flow.networks.recurrent import RecurrentPyramid, _Matching

STEPS = {
    "flownets": (4, 8, 16, 32, 64),
    "flownetc": (4, 8, 16, 32, 64),
    "flownet2sd": (4, 8, 16, 32, 64),
    "flownet2cs": (4, 8, 16, 32, 64),
    "flownet2css": (4, 8, 16, 32, 64),
    "flownet2": (1, 2, 4),
    "pyramid": (1, 4, 4, 8, 8, 16, 16, 32, 32),
    "recurrent-pyramid": (1, 2, 2, 4, 4, *(8,) * 6, *(16,) * 4, *(32,) * 4),
    "raft": (1, 1),  # one for each iteration
    "raft-small": (1, 1, 1),
}
SMALL = {
    "flownets": {"width": 1 / 16},
    "flownetc": {"width": 1 / 16},
    "flownet2sd": {"width": 1 / 16},
    "flownet2cs": {"width": 1 / 16},
    "flownet2css": {"width": 1 / 16},
    "flownet2": {"width": 1 / 16},
    "pyramid": {},
    "recurrent-pyramid": {},
    "raft": {"iterations": 2},
    "raft-small": {"iterations": 3},
}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("network", "width", "expected"),
    [
        (FlowNetS, 1, 38_676_506),  # the released FlowNet2-S
        (FlowNetC, 1, 39_175_298),  # the released FlowNet2-C
        (FlowNet2SD, 1, 45_371_666),
        (FlowNet2CS, 1, 77_870_620),
        (FlowNet2CSS, 1, 116_565_942),
        (FlowNet2, 1, 162_518_834),
        (FlowNetS, 3 / 8, 5_462_666),
        (FlowNetC, 3 / 8, 5_768_758),
    ],
)
def test_published_size(network, width, expected):
    with torch.device("meta"):
        assert parameters(network(width=width)) == expected


def test_compact_size():
    assert parameters(PyramidNet()) == 708_275
    assert parameters(RecurrentPyramid()) == 1_022_717


def decoder_shapes(upsampling_bias):
    """The tensors both published networks share, from conv4 on; notation O, I, k, k."""
    shapes = {}
    for name, outputs, inputs in (
        ("conv4", 512, 256), ("conv4_1", 512, 512), ("conv5", 512, 512), ("conv5_1", 512, 512),
        ("conv6", 1024, 512), ("conv6_1", 1024, 1024),
    ):  # fmt: skip
        shapes[f"{name}.0.weight"] = (outputs, inputs, 3, 3)
        shapes[f"{name}.0.bias"] = (outputs,)
    joined = {6: 1024, 5: 1026, 4: 770, 3: 386, 2: 194}
    for level, inputs in joined.items():
        shapes[f"predict_flow{level}.weight"] = (2, inputs, 3, 3)
        shapes[f"predict_flow{level}.bias"] = (2,)
    for level, outputs in {5: 512, 4: 256, 3: 128, 2: 64}.items():
        shapes[f"deconv{level}.0.weight"] = (joined[level + 1], outputs, 4, 4)
        shapes[f"deconv{level}.0.bias"] = (outputs,)
        shapes[f"upsampled_flow{level + 1}_to_{level}.weight"] = (2, 2, 4, 4)
        if upsampling_bias:
            shapes[f"upsampled_flow{level + 1}_to_{level}.bias"] = (2,)
    return shapes


@pytest.mark.parametrize(
    ("network", "encoder", "upsampling_bias"),
    [
        (FlowNetS, {"conv1": (64, 6, 7), "conv2": (128, 64, 5), "conv3": (256, 128, 5),
                    "conv3_1": (256, 256, 3)}, False),
        (FlowNetC, {"conv1": (64, 3, 7), "conv2": (128, 64, 5), "conv3": (256, 128, 5),
                    "conv_redir": (32, 256, 1), "conv3_1": (256, 473, 3)}, True),
    ],
)  # fmt: skip
def test_published_names_and_shapes(network, encoder, upsampling_bias):
    expected = decoder_shapes(upsampling_bias)
    for name, (outputs, inputs, kernel) in encoder.items():
        expected[f"{name}.0.weight"] = (outputs, inputs, kernel, kernel)
        expected[f"{name}.0.bias"] = (outputs,)
    with torch.device("meta"):
        found = {key: tuple(value.shape) for key, value in network().state_dict().items()}
    assert found == expected


def test_flownet_predicts_twentieths_of_full_resolution_pixels():
    """A decoder that predicts 1 everywhere means 20 pixels of the full resolution."""
    model = FlowNetS(width=1 / 16)
    torch.nn.init.zeros_(model.predict_flow2.weight)
    torch.nn.init.ones_(model.predict_flow2.bias)
    flow = model(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))[0]
    torch.testing.assert_close(flow, torch.full((1, 2, 16, 16), 20.0 / 4))


def test_flownetc_joins_redirected_features_first():
    """The order of the concatenation: 32 redirected channels, then 441 correlations."""
    model = FlowNetC(width=1 / 16)
    seen = []
    model.conv3_1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model.conv_redir.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))
    redirected, joined = seen
    assert joined.shape[1] == redirected.shape[1] + 441
    assert torch.equal(joined[:, : redirected.shape[1]], redirected)


def test_flownetc_keeps_conv2_of_the_first_image():
    model = FlowNetC(width=1 / 16)
    first, second = torch.rand(2, 1, 3, 64, 64)
    skips = []
    decode = model._decode
    model._decode = lambda skip2, skip3: (skips.append(skip2), decode(skip2, skip3))[1]
    model(first, second)
    mean = torch.stack([first, second]).mean(dim=(0, 3, 4))[..., None, None]
    torch.testing.assert_close(skips[0], model.conv2(model.conv1(first - mean)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(64, 64), (16, 16), (17, 90), (65, 33)], ids=str)
def test_contract(name, size, device):
    """Any size of at least 16 px; finest first; sizes halve, rounded up; gradients reach all.

    In training a network gives all of its flows; otherwise it may give the first alone.
    """
    model = MODELS[name](**SMALL[name]).to(device)
    pair = torch.rand(2, 2, 3, *size, device=device)
    with torch.no_grad():
        assert model.eval()(*pair)[0].shape == (
            2,
            2,
            *(-(-side // STEPS[name][0]) for side in size),
        )
    flows = model.train()(*pair)
    for flow, step in zip(flows, STEPS[name], strict=True):
        assert flow.shape == (2, 2, -(-size[0] // step), -(-size[1] // step))
        assert flow.isfinite().all()
    sum(flow.square().sum() for flow in flows).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("first", "second"),
    [((1, 3, 15, 64), (1, 3, 15, 64)), ((1, 3, 64, 64), (1, 3, 64, 65)), ((1, 1, 64, 64),) * 2],
)
def test_refuses(name, first, second):
    with pytest.raises(ValueError, match=r"same shape, H and W >= 16, got"):
        MODELS[name](**SMALL[name])(torch.rand(first), torch.rand(second))


@pytest.mark.parametrize("name", MODELS)
def test_padding_does_not_show(name):
    """A picture whose size fits gives the same flow alone and in a batch."""
    model = MODELS[name](**SMALL[name]).eval()
    first, second = torch.rand(2, 2, 3, 64, 128)
    together, alone = model(first, second)[0], model(first[:1], second[:1])[0]
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-3)


def test_padding_compiles_for_any_size():
    """From the second size on, what is compiled has symbols for sides, and so for the padding."""
    convolve = torch.nn.Conv2d(3, 3, 3, 2, 1)

    def double(image):
        halves = convolve(pad_to_multiple(image, 8))
        return torch.nn.functional.interpolate(halves, scale_factor=2)[..., : image.shape[-1]]

    compiled = torch.compile(double, backend="aot_eager")
    for size in ((33, 47), (50, 71)):
        image = torch.rand(1, 3, *size)
        torch.testing.assert_close(compiled(image), double(image))


def test_first_guess_finds_where_features_went():
    """Random features that move by (2, -3) pixels: the guess is that, with nothing trained."""
    model = PyramidNet()
    f1 = torch.randn(1, 32, 20, 24)
    f2 = torch.roll(f1, shifts=(-3, 2), dims=(2, 3))
    guess, corrected, _ = model._refine(f1, f2, torch.zeros(1, 2, 1, 1), model.context[0])
    inside = (0, slice(None), slice(4, 16), slice(4, 20))
    expected = torch.tensor([2.0, -3.0]).view(2, 1, 1).expand(2, 12, 16)
    torch.testing.assert_close(guess[inside], expected, rtol=0, atol=0.1)
    assert torch.equal(guess, corrected)  # the decoder starts by correcting nothing


def test_first_guess_of_a_pass_finds_where_features_went():
    """Random features that move by (2, -3) pixels: the guess is that, with nothing trained."""
    f1 = torch.randn(1, 32, 20, 24)
    f2 = torch.roll(f1, shifts=(-3, 2), dims=(2, 3))
    matching = _Matching(torch.cat([f1, f2]), torch.tensor(2.7), radius=4)
    guess, similar, moved = matching(torch.zeros(1, 2, 20, 24))
    inside = (0, slice(None), slice(4, 16), slice(4, 20))
    expected = torch.tensor([2.0, -3.0]).view(2, 1, 1).expand(2, 12, 16)
    torch.testing.assert_close(guess[inside], expected, rtol=0, atol=0.1)
    assert (similar[inside].argmax(0) == 9 * (4 - 3) + 4 + 2).all()  # row dy = -3, column dx = 2
    assert torch.equal(moved, torch.cat([guess / 8, guess], dim=1))


def test_decoders_start_by_correcting_nothing():
    flows = RecurrentPyramid()(*torch.rand(2, 1, 3, 64, 64))[1:]
    for corrected, guess in zip(flows[::2], flows[1::2], strict=True):
        assert torch.equal(corrected, guess)


@pytest.mark.parametrize("wrong", [{"channels": (8,)}, {"passes": (1, 1)}, {"radius": 0}], ids=str)
def test_pyramid_refuses_what_is_no_pyramid(wrong):
    with pytest.raises(ValueError, match="two levels, a pass for each but the finest"):
        RecurrentPyramid(**wrong)


def test_pyramid_in_float64():
    flows = PyramidNet().double()(*torch.rand(2, 1, 3, 32, 32, dtype=torch.float64))
    assert all(flow.dtype == torch.float64 for flow in flows)


@pytest.mark.parametrize("name", ["pyramid", "recurrent-pyramid"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_pyramids_of_half_types(name, dtype):
    """Similarities and flow stay float32; what is found is the same but for rounding."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    pair = torch.rand(2, 1, 3, 64, 64).to(dtype)
    with torch.no_grad():
        exact = model(*(image.float() for image in pair))[0]
        rounded = model.to(dtype)(*pair)[0]
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().mean() < 0.1 * exact.abs().mean()


@pytest.mark.parametrize("name", MODELS)
def test_flow_is_float32_under_autocast(name):
    with torch.autocast("cpu", torch.bfloat16):
        flows = MODELS[name](**SMALL[name])(*torch.rand(2, 1, 3, 64, 64))
    assert all(flow.dtype == torch.float32 for flow in flows)


def test_convex_upsample_equal_weights():
    """Equal weights average the 3 x 3 neighbourhood; a constant flow keeps its direction."""
    flow = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    up = convex_upsample(flow, torch.zeros(1, 9 * 16, 3, 4), 4)
    torch.testing.assert_close(up, 4 * flow[..., :1, :1].expand(1, 2, 12, 16))


def test_convex_upsample_border():
    """All weight on neighbour 3, the one to the left: the first column shows what lies outside."""
    flow = torch.arange(1.0, 13.0).view(1, 1, 3, 4).repeat(1, 2, 1, 1)
    scores = torch.zeros(1, 9, 3, 4)
    scores[:, 3] = 100
    torch.testing.assert_close(convex_upsample(flow, scores, 1)[..., 0], flow[..., 0])
    zeros = convex_upsample(flow, scores, 1, border="constant")
    torch.testing.assert_close(zeros[..., 0], torch.zeros(1, 2, 3))
    torch.testing.assert_close(zeros[..., 1:], flow[..., :3])


def test_convex_upsample_picks_a_neighbour():
    """All weight on neighbour 5, the one to the right, moves the field one pixel left."""
    flow = torch.arange(12.0).view(1, 1, 3, 4).repeat(1, 2, 1, 1)
    scores = torch.zeros(1, 9, 3, 4)
    scores[:, 5] = 100
    up = convex_upsample(flow, scores, 1)
    torch.testing.assert_close(up[..., :3], flow[..., 1:])
