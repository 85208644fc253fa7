"""Forward warping against its reference in float64, plain loops and results worked by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmatch.ops import active_kernel, splat
from flowmatch.ops.splat import MODES, splat_grad_reference, splat_reference

ops = torch.ops.flowmatch

SHAPES = [  # the smallest, odd sizes, edges of tiles (8 x 32) and of groups of 4 channels
    (1, 1, 1, 1),
    (2, 3, 5, 7),
    (1, 4, 8, 32),
    (1, 5, 9, 33),
    (3, 2, 1, 40),
    (1, 9, 31, 1),
]
WILD = [float("nan"), float("inf"), -1e30, 1e30, 2.0**24, -1000.5, 3.0, -1.0, 0.0]


def problem(shape, device, dtype=torch.float64, spread=3.0):
    """Image and flow; some pixels leave the image, others have no flow."""
    B, _, H, W = shape
    image = torch.randn(shape, dtype=dtype, device=device)
    flow = spread * torch.randn(B, 2, H, W, dtype=dtype, device=device)
    if H * W > 20:
        flow[0, 0].view(-1)[: len(WILD)] = flow.new_tensor(WILD)
    return image, flow


def plain_splat(image, flow, weight, mode):
    """The formulas of the modes in plain loops."""
    B, _, H, W = image.shape
    total, norm = np.zeros(image.shape), np.zeros((B, 1, H, W))
    for b, y, x in np.ndindex(B, H, W):
        u, v = flow[b, :, y, x]
        factor = {"linear": weight[b, 0, y, x], "softmax": np.exp(weight[b, 0, y, x])}.get(mode, 1)
        if not (np.isfinite([u, v, factor]).all() and max(abs(u), abs(v)) < 2**24):
            continue
        for row in range(H):
            for column in range(W):
                part = max(0, 1 - abs(x + u - column)) * max(0, 1 - abs(y + v - row)) * factor
                total[b, :, row, column] += part * image[b, :, y, x]
                norm[b, 0, row, column] += part
    if mode == "sum":
        return total
    return np.divide(total, norm, out=np.zeros_like(total), where=norm != 0)


@pytest.mark.parametrize("op", ["splat", "splat_grad"])
def test_is_compiled(op, device):
    assert active_kernel(op, device) == "compiled"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("contiguous", [True, False])
def test_equals_reference(shape, contiguous, device):
    image, flow = problem(shape, device)
    g = torch.randn_like(image)
    if not contiguous:
        image, flow, g = (t.transpose(2, 3).contiguous().transpose(2, 3) for t in (image, flow, g))
    torch.testing.assert_close(ops.splat(image, flow), splat_reference(image, flow))
    result = ops.splat_grad(g, image, flow)
    for one, other in zip(result, splat_grad_reference(g, image, flow), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 6, 4)], ids=str)
def test_equals_plain_loops(shape, mode, device):
    image, flow = problem(shape, device)
    weight = 3 * torch.rand_like(flow[:, :1])
    weight[0, 0, 0, -1] = torch.nan
    given = weight if mode in ("linear", "softmax") else None
    expected = plain_splat(*(t.cpu().numpy() for t in (image, flow, weight)), mode)
    torch.testing.assert_close(splat(image, flow, given, mode).cpu(), torch.from_numpy(expected))


def test_worked_by_hand(device):
    """Pixels 0 and 1 of 10, 20 meet at x = 2, pixel 2 of 30 moves to 2.5, pixel 3 stays."""
    image = torch.tensor([10.0, 20.0, 30.0, 40.0], device=device).view(1, 1, 1, 4)
    flow = torch.zeros(1, 2, 1, 4, device=device)
    flow[0, 0, 0] = torch.tensor([2.0, 1.0, 0.5, 0.0])
    weight = torch.tensor([3.0, 1.0, 2.0, 1.0], device=device).view(1, 1, 1, 4)
    expected = {  # at x = 2: 10, 20 and half of 30; at x = 3: half of 30, and 40
        "sum": [0, 0, 45, 55],
        "average": [0, 0, 45 / 2.5, 55 / 1.5],
        "linear": [0, 0, (30 + 20 + 30) / (3 + 1 + 1), (30 + 40) / 2],
        "softmax": [0, 0, (30 + 20 + 30) / 5, 70 / 2],  # with the logarithms of the weights
    }
    for mode, values in expected.items():
        given = {"linear": weight, "softmax": weight.log()}.get(mode)
        out = splat(image, flow, given, mode)
        torch.testing.assert_close(out[0, 0, 0].cpu(), torch.tensor(values, dtype=torch.float32))


def test_a_border_takes_its_part(device):
    """A pixel that lands half outside leaves the other half at the border."""
    image = torch.ones(1, 1, 2, 2, device=device)
    flow = torch.tensor([[-0.5, -0.5], [-0.5, -0.5]], device=device).expand(1, 2, 2, 2)
    out = splat(image, flow, mode="sum")
    assert out.flatten().tolist() == [1.0, 0.5, 0.5, 0.25]


def test_undoes_warp_of_a_translation(device):
    image = torch.rand(1, 3, 9, 37, device=device)
    flow = torch.tensor([3.0, 2.0], device=device).view(1, 2, 1, 1).expand(1, 2, 9, 37)
    assert torch.equal(splat(image, flow)[..., 2:, 3:], image[..., :-2, :-3])


def test_softmax_of_large_weights_does_not_overflow(device):
    image = torch.tensor([1.0, 2.0, 5.0], device=device).view(1, 1, 1, 3)
    flow = torch.zeros(1, 2, 1, 3, device=device)
    flow[0, 0, 0, 0] = 1
    weight = torch.tensor([1e4, 1e4 - 1, 1e4 - 2], device=device).view(1, 1, 1, 3)
    weight.requires_grad_()
    out = splat(image, flow, weight, "softmax")
    front = (1 + 2 * np.exp(-1)) / (1 + np.exp(-1))
    expected = torch.tensor([0.0, front, 5.0], dtype=torch.float32)
    torch.testing.assert_close(out.flatten().cpu(), expected)
    assert torch.autograd.grad(out.sum(), weight)[0].isfinite().all()


def test_ignores_what_is_not_finite(device):
    """Sources without flow or weight get no gradient, whatever their value."""
    image = torch.tensor([1.0, torch.nan, torch.inf, 4.0], device=device).view(1, 1, 1, 4)
    flow = torch.zeros(1, 2, 1, 4, device=device)
    flow[0, 1, 0, 1], flow[0, 0, 0, 2] = torch.nan, torch.inf
    inputs = [image.requires_grad_(), flow.requires_grad_()]
    out = splat(*inputs)
    assert out.flatten().tolist() == [1, 0, 0, 4]
    grads = torch.autograd.grad(out.square().sum(), inputs)
    assert grads[0].flatten().tolist() == [2, 0, 0, 8]
    assert grads[1][..., 1:3].count_nonzero() == 0
    weight = torch.zeros(1, 1, 1, 4, device=device)
    weight[..., 0], weight[..., 1] = -torch.inf, torch.nan
    still = torch.zeros_like(flow)
    assert splat(torch.ones_like(image), still, weight, "softmax").flatten().tolist() == [
        0, 0, 1, 1
    ]  # fmt: skip
    nothing = splat(image, still, torch.full_like(weight, -torch.inf), "softmax")
    assert nothing.count_nonzero() == 0


@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode, device):
    image, flow = problem((2, 2, 3, 4), device, spread=1.5)
    inputs = [image, flow]
    if mode in ("linear", "softmax"):
        inputs.append(0.5 + torch.rand(2, 1, 3, 4, dtype=torch.float64, device=device))
    inputs = [t.requires_grad_() for t in inputs]
    function = lambda i, f, w=None: splat(i, f, w, mode)  # noqa: E731
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs, check_fwd_over_rev=True, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_registration(dtype, device):
    image, flow = (t.requires_grad_() for t in problem((2, 3, 4, 4), device, dtype))
    g = torch.randn_like(image).requires_grad_()
    torch.library.opcheck(ops.splat.default, (image, flow))
    torch.library.opcheck(ops.splat_grad.default, (g, image, flow))


@pytest.mark.parametrize("mode", MODES)
def test_compiles(mode, device):
    image, flow = problem((2, 3, 5, 7), device, torch.float32)
    weight = torch.rand_like(flow[:, :1]) if mode in ("linear", "softmax") else None
    inputs = [image.requires_grad_(), flow.requires_grad_()]
    function = lambda i, f: splat(i, f, weight, mode).square().sum()  # noqa: E731
    compiled, expected = torch.compile(function, fullgraph=True)(*inputs), function(*inputs)
    torch.testing.assert_close(compiled, expected)
    result = torch.autograd.grad(compiled, inputs)
    for one, other in zip(result, torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_exports(device):
    class Net(torch.nn.Module):
        def forward(self, *inputs):
            return splat(*inputs, "softmax")

    image, flow = problem((1, 3, 5, 7), device, torch.float32)
    inputs = (image, flow, torch.rand_like(flow[:, :1]))
    torch.testing.assert_close(torch.export.export(Net(), inputs).module()(*inputs), Net()(*inputs))


def test_vmap(device):
    images = torch.randn(3, 2, 4, 5, 6, device=device)
    flow = torch.randn(2, 2, 5, 6, device=device)
    mapped = torch.vmap(splat, (0, None))(images, flow)
    torch.testing.assert_close(mapped, torch.stack([splat(image, flow) for image in images]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_summed_in_float32(dtype, device):
    """2049 ones: half types alone cannot count so far."""
    image = torch.ones(1, 1, 1, 2049, dtype=dtype, device=device)
    flow = -torch.arange(2049.0, device=device).view(1, 1, 1, -1).repeat(1, 2, 1, 1)
    flow[:, 1] = 0
    assert splat(image, flow, mode="sum")[0, 0, 0, 0] == torch.tensor(2049.0).to(dtype)
    out = splat(2 * image, flow, torch.full_like(image, 12), "softmax")
    assert out.dtype == dtype and out[0, 0, 0, 0] == 2


def test_autocast_changes_nothing(device):
    image, flow = problem((1, 3, 5, 7), device, torch.float32)
    weight = torch.rand_like(flow[:, :1])
    with torch.autocast(device, torch.bfloat16):
        half = splat(image.bfloat16(), flow, weight.bfloat16(), "softmax")
        out = splat(image, flow, weight, "softmax")
    assert half.dtype == torch.bfloat16
    assert torch.equal(out, splat(image, flow, weight, "softmax"))


def test_flow_of_float64_is_not_rounded(device):
    image = torch.ones(1, 1, 1, 3, device=device)
    flow = torch.zeros(1, 2, 1, 3, dtype=torch.float64, device=device)
    flow[0, 0, 0, 0] = 1 - 2.0**-30  # 1 in float32
    out = splat(image, flow, mode="sum")
    assert out.dtype == torch.float32 and 0 < out[0, 0, 0, 0] < 1e-8


def test_meta_device():
    image, flow = torch.empty(2, 3, 7, 5, device="meta"), torch.empty(2, 2, 7, 5, device="meta")
    assert splat(image, flow).shape == (2, 3, 7, 5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_empty(shape, mode, device):
    image = torch.ones(shape, device=device, requires_grad=True)
    flow = torch.zeros(shape[0], 2, *shape[2:], device=device, requires_grad=True)
    weight = torch.zeros_like(flow[:, :1]) if mode in ("linear", "softmax") else None
    out = splat(image, flow, weight, mode)
    assert out.shape == shape
    out.sum().backward()
    assert image.grad.shape == shape and flow.grad.count_nonzero() == 0


def test_threads_do_not_change_the_bits(same_with_any_threads):
    image, flow = problem((2, 6, 40, 130), "cpu", torch.float32, spread=9.0)
    g = torch.randn_like(image)
    same_with_any_threads(lambda: (ops.splat(image, flow),))
    same_with_any_threads(lambda: ops.splat_grad(g, image, flow))


def test_repeatable(device):
    """Also where very many sources meet in one pixel."""
    image, flow = problem((2, 5, 40, 70), device, torch.float32, spread=9.0)
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(70.0), indexing="ij")
    flow[1] = torch.stack([20.25 - x, 10.5 - y]).to(device)
    results = [splat(image, flow, flow[:, :1].nan_to_num(0, 0, 0), "softmax") for _ in range(3)]
    assert all(torch.equal(results[0], other) for other in results[1:])
    total = splat(torch.ones_like(image), flow, mode="sum")[1, 0]
    expected = 2800 * torch.tensor([[0.375, 0.125], [0.375, 0.125]], device=device)
    torch.testing.assert_close(total[10:12, 20:22], expected)
    assert total.count_nonzero() == 4


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_geometry(data):
    side = st.integers(1, 40)
    shape = (data.draw(st.integers(1, 2)), data.draw(st.integers(1, 9)), data.draw(side),
             data.draw(side))  # fmt: skip
    image, flow = problem(shape, "cpu", spread=data.draw(st.sampled_from([0.1, 2.0, 30.0])))
    component = st.floats(allow_nan=True, allow_infinity=True, width=32)
    flow.view(-1)[data.draw(st.integers(0, flow.numel() - 1))] = data.draw(component)
    out = ops.splat(image, flow)
    torch.testing.assert_close(out, splat_reference(image, flow))
    result = ops.splat_grad(out, image, flow)
    for one, other in zip(result, splat_grad_reference(out, image, flow), strict=True):
        torch.testing.assert_close(one, other)


GOOD = {"image": torch.zeros(1, 3, 4, 5), "flow": torch.zeros(1, 2, 4, 5)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flow": torch.zeros(1, 2, 4, 4)}, r"\[B, 2, H, W\], got \(1, 3, 4, 5\) and \(1, 2, 4"),
        ({"image": torch.zeros(3, 4, 5)}, r"must be \[B, C, H, W\]"),
        ({"mode": "max"}, "one of sum, average, linear, softmax, got 'max'"),
        ({"mode": "softmax"}, "mode 'softmax' needs a weight"),
        ({"weight": torch.zeros(1, 1, 4, 5)}, "mode 'average' takes no weight"),
        (
            {"weight": torch.zeros(1, 3, 4, 5), "mode": "linear"},
            r"weight must be \[B, 1, H, W\] for an image of \(1, 3, 4, 5\), got \(1, 3, 4, 5\)",
        ),
        ({"image": torch.zeros(1, 3, 4, 5).byte()}, "got torch.uint8"),
        ({"flow": torch.zeros(1, 2, 4, 5, device="meta")}, "same device, got cpu and meta"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        splat(**{**GOOD, **change})
