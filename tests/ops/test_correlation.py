"""The cost volume against its reference in float64 and values computed by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmatch.ops import Correlation, active_kernel, correlation
from flowmatch.ops.correlation_reference import (
    correlation_grad_reference,
    correlation_reference,
    pair,
)

ops = torch.ops.flowmatch

CASES = [  # B, C, H, W, radius, stride
    (1, 1, 1, 1, 0, 1),  # smallest sizes
    (2, 3, 7, 5, 2, 1),  # odd sizes, displacements past every border
    (1, 5, 9, 33, 4, 2),  # a row one longer than two vectors
    (1, 64, 17, 31, 10, 2),  # FlowNetC's displacements, rows of several tiles
    (1, 13, 3, 4, 7, 3),  # displacements longer than the image
    (1, 9, 20, 50, 3, 1),  # one channel, row and column block more than a tile
    (2, 4, 8, 16, 1, 5),  # whole vectors, and a stride of several rows
    (1, 2, 1, 40, 5, 1),  # one row, as in stereo
]


def features(case, dtype, device, contiguous=True):
    B, C, H, W = case[:4]
    if contiguous:
        return tuple(torch.randn(2, B, C, H, W, device=device).to(dtype))
    return tuple(torch.randn(2, B, H, W, C, device=device).to(dtype).movedim(-1, 2))


@pytest.mark.parametrize("op", ["correlation", "correlation_grad"])
def test_is_compiled(op, device):
    assert active_kernel(op, device) == "compiled"


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("contiguous", [True, False])
def test_equals_reference(case, contiguous, device, dtype, close):
    f1, f2 = features(case, dtype, device, contiguous)
    radius, stride = case[4:]
    volume = correlation(f1, f2, radius, stride)
    assert volume.dtype == dtype
    close(volume, correlation_reference(f1.double(), f2.double(), radius, stride))

    g = torch.randn(volume.shape, device=device).to(dtype).transpose(2, 3)
    g = g.transpose(2, 3) if contiguous else g.contiguous().transpose(2, 3)
    for other, first in ((f2, True), (f1, False)):
        grad = ops.correlation_grad(g, other, radius, stride, first)
        expected = correlation_grad_reference(g.double(), other.double(), radius, stride, first)
        close(grad, expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_of_the_gradient_equals_autograd(case, device):
    """The reference of the gradient equals autograd of the reference of the volume."""
    f1, f2 = (f.requires_grad_() for f in features(case, torch.float64, device))
    volume = correlation_reference(f1, f2, *case[4:])
    g = torch.randn_like(volume)
    expected = torch.autograd.grad(volume, (f1, f2), g)
    for other, first, grad in ((f2, True, expected[0]), (f1, False, expected[1])):
        result = correlation_grad_reference(g, other.detach(), *case[4:], first)
        torch.testing.assert_close(result, grad)


def test_known_value(device):
    """Two channels, a row of two pixels: mean over channels, displacement -1, 0, +1 in the row."""
    f1 = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]], device=device)
    f2 = torch.tensor([[[[5.0, 6.0]], [[7.0, 8.0]]]], device=device)
    volume = correlation(f1, f2, radius=1, stride=1)
    centre = [(1 * 5 + 3 * 7) / 2, (2 * 6 + 4 * 8) / 2]
    left = [0.0, (2 * 5 + 4 * 7) / 2]
    right = [(1 * 6 + 3 * 8) / 2, 0.0]
    assert volume[0, 3:6, 0].tolist() == [left, centre, right]
    assert volume[0, [0, 1, 2, 6, 7, 8]].abs().sum() == 0  # rows above and below are outside


@pytest.mark.parametrize("case", [(1, 2, 3, 4, 1, 1), (1, 1, 4, 3, 1, 2)], ids=str)
def test_gradients(case, device):
    f1, f2 = (f.requires_grad_() for f in features(case, torch.float64, device))
    radius, stride = case[4:]
    assert torch.autograd.gradcheck(lambda a, b: correlation(a, b, radius, stride), (f1, f2))
    assert torch.autograd.gradgradcheck(lambda a, b: correlation(a, b, radius, stride), (f1, f2))


@pytest.mark.parametrize("grad", [False, True])
def test_registration(grad, device):
    f1, f2 = (f.requires_grad_(grad) for f in features(CASES[1], torch.float32, device))
    torch.library.opcheck(ops.correlation.default, (f1, f2, 2, 1))
    g = torch.randn(2, 25, 7, 5, device=device, requires_grad=grad)
    for first in (True, False):
        torch.library.opcheck(ops.correlation_grad.default, (g, f1, 2, 1, first))


def test_compiles(device):
    f1, f2 = (f.requires_grad_() for f in features(CASES[2], torch.float32, device))
    compiled = torch.compile(lambda a, b: correlation(a, b, 4, 2).square().sum(), fullgraph=True)
    expected = correlation(f1, f2, 4, 2).square().sum()
    torch.testing.assert_close(compiled(f1, f2), expected)
    grads = torch.autograd.grad(compiled(f1, f2), (f1, f2))
    torch.testing.assert_close(grads, torch.autograd.grad(expected, (f1, f2)))


def test_exports(device):
    class Net(torch.nn.Module):
        def forward(self, a, b):
            return correlation(a, b, 4, 2)

    pair = features(CASES[2], torch.float32, device)
    program = torch.export.export(Net(), pair)
    torch.testing.assert_close(program.module()(*pair), Net()(*pair))


@pytest.mark.parametrize("in_dims", [(0, 0), (1, None), (None, 2)], ids=str)
def test_vmap(in_dims, device):
    pair = [torch.randn(3, 2, 4, 5, 6, device=device) for _ in range(2)]
    each = [
        correlation(
            *(f[0 if dim is None else i] for f, dim in zip(pair, in_dims, strict=True)), 1, 1
        )
        for i in range(3)
    ]
    arguments = [
        f[0] if dim is None else f.movedim(0, dim) for f, dim in zip(pair, in_dims, strict=True)
    ]
    mapped = torch.vmap(lambda a, b: correlation(a, b, 1, 1), in_dims)(*arguments)
    torch.testing.assert_close(mapped, torch.stack(each))


def test_autocast_uses_the_kernels_of_half_types(device, dtype):
    f1, f2 = features(CASES[1], dtype, device)
    with torch.autocast(device, torch.bfloat16):
        volume = correlation(f1, f2, 2, 1)  # as after convolutions
    assert volume.dtype == dtype
    assert torch.equal(volume, correlation(f1, f2, 2, 1))


def test_autocast_takes_the_wider_of_two_types(device):
    f1, f2 = features(CASES[1], torch.float32, device)
    with torch.autocast(device, torch.bfloat16):
        volume = correlation(f1.bfloat16(), f2, 2, 1)
    assert volume.dtype == torch.float32
    torch.testing.assert_close(volume, correlation(f1.bfloat16().float(), f2, 2, 1))


def test_meta_device():
    f = torch.empty(2, 3, 7, 5, device="meta")
    assert correlation(f, f, 2, 1).shape == (2, 25, 7, 5)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_empty(shape, device):
    f = torch.zeros(shape, device=device, requires_grad=True)
    volume = correlation(f, f, 1, 1)
    assert volume.shape == (shape[0], 9, *shape[2:])
    assert volume.abs().sum() == 0
    volume.sum().backward()
    assert f.grad.shape == shape


def test_repeatable(device):
    f1, f2 = (f.requires_grad_() for f in features((2, 33, 19, 37), torch.float32, device))

    def results():
        volume = correlation(f1, f2, 3, 2)
        return (volume, *torch.autograd.grad(volume.square().sum(), (f1, f2)))

    for first, second in zip(results(), results(), strict=True):
        assert torch.equal(first, second)


def test_threads_do_not_change_the_bits(same_with_any_threads):
    f1, f2 = features((2, 40, 19, 37), torch.float32, "cpu")
    g = torch.randn(2, 49, 19, 37)

    def results():
        grads = [ops.correlation_grad(g, f2, 3, 2, first) for first in (True, False)]
        return (correlation(f1, f2, 3, 2), *grads)

    same_with_any_threads(results)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_geometry(data):
    """Random sizes, with all kinds of borders of tiles."""
    B, C, H, W = (data.draw(st.integers(1, most)) for most in (2, 12, 14, 40))
    radius, stride = data.draw(st.integers(0, 6)), data.draw(st.integers(1, 7))
    f1, f2 = features((B, C, H, W), torch.float64, "cpu")
    volume = correlation(f1, f2, radius, stride)
    torch.testing.assert_close(volume, correlation_reference(f1, f2, radius, stride))
    for other, first in ((f2, True), (f1, False)):
        grad = ops.correlation_grad(volume, other, radius, stride, first)
        expected = correlation_grad_reference(volume, other, radius, stride, first)
        torch.testing.assert_close(grad, expected)


def test_more_than_two_to_the_31_elements():
    """One row of pixels, many displacements: offsets into the volume need 64 bits."""
    radius, width = 256, 8192
    f1, f2 = (torch.randn(1, 1, 1, width).bfloat16() for _ in range(2))
    volume = correlation(f1, f2, radius, stride=1)
    assert volume.numel() > 2**31
    side = 2 * radius + 1
    row = volume[0, radius * side : (radius + 1) * side, 0]  # dy = 0; all other rows are outside
    last = f2[0, 0, 0, -side:].float()  # compared with the pixel in the middle of these
    torch.testing.assert_close(
        row[:, width - 1 - radius], (f1[0, 0, 0, -1 - radius] * last).bfloat16()
    )
    assert volume[0, -1].count_nonzero() == 0


def test_half_is_summed_in_float32(device):
    """In half precision a sum of 4096 products of 1 and 1/16 would saturate; their mean is 1/16."""
    f1 = torch.ones(1, 4096, 1, 1, dtype=torch.float16, device=device)
    volume = correlation(f1, f1 / 16, radius=0, stride=1)
    assert volume.item() == 1 / 16


@pytest.mark.parametrize(
    ("f1", "f2", "grid", "message"),
    [
        (
            torch.zeros(1, 8, 4, 4),
            torch.zeros(1, 8, 4, 5),
            (1, 1),
            r"same shape, got \(1, 8, 4, 4\)",
        ),
        (torch.zeros(8, 4, 4), torch.zeros(8, 4, 4), (1, 1), r"\[B, C, H, W\].*got \(8, 4, 4\)"),
        (torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2).double(), (1, 1), "same float type, got"),
        (torch.zeros(1, 1, 2, 2).int(), torch.zeros(1, 1, 2, 2).int(), (1, 1), "same float type"),
        (torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, device="meta"), (1, 1), "same device"),
        (torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), (-1, 1), "0 <= radius .* got -1 and 1"),
        (torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), (1, 0), "1 <= stride .* got 1 and 0"),
    ],
)
def test_refuses(f1, f2, grid, message):
    with pytest.raises(ValueError, match=message):
        correlation(f1, f2, *grid)


def test_shapes_are_checked_under_autocast(device):
    with torch.autocast(device, torch.bfloat16), pytest.raises(ValueError, match="same shape, got"):
        correlation(torch.zeros(1, 1, 4, 4, device=device), torch.zeros(2, 1, 4, 4, device=device))


def test_kernel_protects_memory():
    """The kernels check arguments themselves, so that a direct call cannot read out of bounds."""
    f = torch.zeros(1, 2, 4, 4)
    with pytest.raises(RuntimeError, match="the same shape"):
        ops.correlation(f, torch.zeros(1, 3, 4, 4), 1, 1)
    with pytest.raises(RuntimeError, match="g must be"):
        ops.correlation_grad(torch.zeros(1, 9, 4, 3), f, 1, 1, True)


LAYERS = [  # kernel_size, pad, max_displacement, stride1, stride2
    (1, 4, 4, 1, 2),  # like FlowNetC's, but smaller
    (1, 0, 2, 1, 1),
    (3, 4, 3, 1, 1),  # other packages read wrong pixels here
    (3, 5, 4, 2, 2),
    (5, 6, 3, 3, 2),  # max_displacement is not a multiple of stride2
    (1, 3, 0, 2, 1),
    (5, 1, 2, 1, 1),  # pad < max_displacement
    (1, (0, 3), (0, 3), 1, 1, (0, -3)),  # stereo
    (3, (1, 5), (2, 4), 2, 2, (1, -2)),  # of one axis a border is cropped
    (1, (3, 0), (1, 0), 1, 1, (20, 0)),  # outside the image
]


def plain_layer(f1, f2, layer, subtract):
    """Definition of the released layer, and of an offset, in plain loops."""
    kernel_size, pad, max_displacement, stride1, stride2, *offset = layer
    (py, px), (my, mx), (oy, ox) = map(pair, (pad, max_displacement, *(offset or [0])))
    wide = 30  # more zeros, which displaced patches may need
    f1, f2 = (
        np.pad(f.numpy(), ((0, 0), (0, 0), (py + wide,) * 2, (px + wide,) * 2)) for f in (f1, f2)
    )
    B, C, H, W = f1.shape
    reach = 2 * (wide + kernel_size // 2)
    ry, rx = my // stride2, mx // stride2
    h, w = (int(np.ceil((s - reach - 2 * m) / stride1)) for s, m in ((H, my), (W, mx)))
    out = np.zeros((B, (2 * ry + 1) * (2 * rx + 1), h, w))
    for y, x, dy, dx in np.ndindex(h, w, 2 * ry + 1, 2 * rx + 1):
        y1, x1 = y * stride1 + my + wide, x * stride1 + mx + wide
        y2, x2 = y1 + (dy - ry) * stride2 + oy, x1 + (dx - rx) * stride2 + ox
        a = f1[:, :, y1 : y1 + kernel_size, x1 : x1 + kernel_size]
        b = f2[:, :, y2 : y2 + kernel_size, x2 : x2 + kernel_size]
        compared = np.abs(a - b) if subtract else a * b
        out[:, dy * (2 * rx + 1) + dx, y, x] = compared.mean(axis=(1, 2, 3))
    return torch.from_numpy(out)


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_layer_equals_its_definition(layer, subtract, device):
    f1, f2 = features((2, 3, 9, 12), torch.float64, "cpu")
    names = ("kernel_size", "pad", "max_displacement", "stride1", "stride2", "offset")
    module = Correlation(**dict(zip(names, layer, strict=False)), subtract=subtract)
    result = module(f1.to(device), f2.to(device)).cpu()
    torch.testing.assert_close(result, plain_layer(f1, f2, layer, subtract))


@pytest.mark.parametrize("subtract", [False, True])
def test_groups_of_a_layer_are_layers_of_their_channels(subtract, device):
    f1, f2 = features((2, 6, 7, 9), torch.float32, device)
    arguments = {"kernel_size": 3, "pad": (3, 1), "max_displacement": 2, "subtract": subtract}
    volume = Correlation(**arguments, groups=3)(f1, f2)
    single = Correlation(**arguments)
    parts = [single(f1[:, c : c + 2], f2[:, c : c + 2]) for c in (0, 2, 4)]
    assert torch.equal(volume, torch.cat(parts, 1))


def test_layer_computes_no_border_that_is_cropped():
    """For FlowNetC's layer features are not padded and the volume is not copied."""
    f1, f2 = torch.randn(2, 1, 3, 6, 7)
    with torch.profiler.profile(record_shapes=True, acc_events=True) as profile:
        volume = Correlation()(f1, f2)
    ran = {event.key for event in profile.key_averages()}
    assert "flowmatch::correlation" in ran
    assert not {"aten::pad", "aten::avg_pool2d", "aten::copy_"} & ran
    assert torch.equal(volume, correlation(f1, f2))


@pytest.mark.parametrize("subtract", [False, True])
def test_layer_accepts_mixed_types_under_autocast(subtract, device):
    f1, f2 = features((1, 3, 6, 7), torch.float32, device)
    layer = Correlation(pad=3, max_displacement=2, stride2=1, subtract=subtract)
    with torch.autocast(device, torch.bfloat16):
        volume = layer(f1.bfloat16(), f2)
    assert volume.dtype == torch.float32
    torch.testing.assert_close(volume, layer(f1.bfloat16().float(), f2))
    with pytest.raises(ValueError, match="same float type, got"):
        layer(f1.bfloat16(), f2)


@pytest.mark.parametrize("subtract", [False, True])
def test_layer_gradients(subtract, device):
    f1, f2 = (f.requires_grad_() for f in features((1, 2, 5, 4), torch.float64, device))
    module = Correlation(
        kernel_size=3,
        pad=3,
        max_displacement=(1, 2),
        stride1=2,
        stride2=1,
        subtract=subtract,
        offset=(1, -1),
        groups=2,
    )
    assert torch.autograd.gradcheck(module, (f1, f2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 2}, "odd and positive, got 2"),
        ({"stride1": 0}, "stride1, stride2 >= 1"),
        ({"pad": -1}, "pad, max_displacement >= 0"),
        ({"pad": 0}, "too small for patches of 1 displaced by 20"),
        ({"pad": (1, 2, 3)}, "stride1, stride2 >= 1"),
        ({"offset": (1,)}, "and an offset"),
        ({"groups": 3}, "groups must divide the 2 channels, got 3"),
    ],
)
def test_layer_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Correlation(**arguments)(*torch.rand(2, 1, 2, 8, 8))


def test_layer_shows_its_arguments():
    assert repr(Correlation(kernel_size=3, subtract=True)) == (
        "Correlation(kernel_size=3, pad=20, max_displacement=20, stride1=1, stride2=2, "
        "subtract=True)"
    )
    assert repr(Correlation(groups=2)).endswith("subtract=False, groups=2)")
