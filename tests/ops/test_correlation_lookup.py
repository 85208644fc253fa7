"""The correlation lookup against its reference in float64 and RAFT's all-pairs volume."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmatch.ops import (
    active_kernel,
    correlation,
    correlation_lookup,
    correlation_lookup_1d,
    correlation_pyramid,
)
from flowmatch.ops.correlation_lookup_reference import (
    correlation_lookup_grad_reference,
    correlation_lookup_reference,
)

ops = torch.ops.flowmatch

CASES = [  # B, C, (H, W), (H2, W2), radius_y, radius_x
    (1, 1, (1, 1), (1, 1), 0, 0),  # smallest sizes
    (2, 3, (5, 7), (6, 9), 2, 2),  # fewer channels than a vector
    (1, 37, (4, 18), (4, 5), 0, 3),  # stereo, channels not a multiple of a vector
    (1, 64, (3, 17), (20, 30), 4, 4),  # RAFT's windows, one pixel more than a run of 16
    (1, 160, (2, 5), (3, 4), 4, 4),  # windows larger than the image, several slices of channels
    (1, 16, (2, 3), (9, 40), 1, 8),  # rows of windows in several blocks
]
WILD = [float("nan"), float("inf"), -1e30, 1e30, 2.0**24, -(2.0**24) - 2, -1000.5]


def problem(case, dtype, device, contiguous=True):
    """Inputs of the op; some of the coordinates are outside the image."""
    B, C, (H, W), (H2, W2), *_ = case
    f1, f2 = (
        torch.randn(B, C, *size, device=device).to(dtype).permute(0, 2, 3, 1)
        for size in ((H, W), (H2, W2))
    )
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    coords = torch.rand(B, 2, H, W, device=device, dtype=wide)
    coords = coords * coords.new_tensor([2 * W2 + 4, 2 * H2 + 4]).view(2, 1, 1) - 4
    if H * W > 4:
        coords.view(B, 2, -1)[:, 0, 1] = 3.0  # integer coordinates
    if contiguous:
        f1, f2 = f1.contiguous(), f2.contiguous()
    return f1, f2, coords


def window(case):
    return (0.5, 0.5, *case[4:])


@pytest.mark.parametrize("op", ["correlation_lookup", "correlation_lookup_grad"])
def test_is_compiled(op, device):
    assert active_kernel(op, device) == "compiled"


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("contiguous", [True, False])
def test_equals_reference(case, contiguous, device, dtype, close):
    f1, f2, coords = problem(case, dtype, device, contiguous)
    out = ops.correlation_lookup(f1, f2, coords, *window(case))
    assert out.dtype == dtype
    exact = f1.double(), f2.double(), coords.double()
    close(out, correlation_lookup_reference(*exact, *window(case)))
    g = torch.randn(out.shape, device=device).to(dtype)
    g = g if contiguous else g.transpose(2, 3).contiguous().transpose(2, 3)
    result = ops.correlation_lookup_grad(g, f1, f2, coords, *window(case))
    expected = correlation_lookup_grad_reference(g.double(), *exact, *window(case))
    for one, other in zip(result[:2], expected[:2], strict=True):
        close(one, other)
    torch.testing.assert_close(result[2], expected[2].to(result[2].dtype), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_reference_of_the_gradient_equals_autograd(case, device):
    """The reference of the gradients equals autograd of the reference of the lookup."""
    inputs = [t.requires_grad_() for t in problem(case, torch.float64, device)]
    out = correlation_lookup_reference(*inputs, *window(case))
    g = torch.randn_like(out)
    expected = torch.autograd.grad(out, inputs, g)
    plain = [t.detach() for t in inputs]
    for result, one in zip(
        correlation_lookup_grad_reference(g, *plain, *window(case)), expected, strict=True
    ):
        torch.testing.assert_close(result, one)


def all_pairs(f1, f2, coords, radius, levels):
    """RAFT's lookup (volume, pyramid, bilinear sampling) in our order and scale."""
    B, C, H, W = f1.shape
    volume = torch.einsum("bchw,bcyx->bhwyx", f1, f2).flatten(0, 2)[:, None] / C**0.5
    out = []
    for level in range(levels):
        steps = torch.arange(-radius, radius + 1, dtype=f1.dtype, device=f1.device)
        dy, dx = torch.meshgrid(steps, steps, indexing="ij")
        at = coords.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2) / 2**level
        at = at + torch.stack([dx, dy], -1)
        size = at.new_tensor([volume.shape[3], volume.shape[2]])
        grid = 2 * at / (size - 1) - 1
        result = F.grid_sample(volume, grid, align_corners=True)
        out.append(result.view(B, H, W, -1).permute(0, 3, 1, 2))
        volume = F.avg_pool2d(volume, 2)
    return torch.cat(out, 1)


def test_equals_the_volume_of_all_pairs(device):
    f1, f2 = torch.randn(2, 2, 12, 17, 22, dtype=torch.float64, device=device)
    coords = 30 * torch.rand(2, 2, 17, 22, dtype=torch.float64, device=device) - 4
    result = correlation_lookup(f1, correlation_pyramid(f2, 3), coords, 3)
    torch.testing.assert_close(result, all_pairs(f1, f2, coords, 3, 3))


def test_identity_coordinates_give_the_cost_volume(device):
    f1, f2 = torch.randn(2, 1, 16, 9, 11, device=device)
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    result = correlation_lookup(f1, f2, torch.stack([x, y])[None].to(device), 2)
    torch.testing.assert_close(result, correlation(f1, f2, 2, 1) * 16**0.5)


def test_known_value(device):
    """Halfway between two pixels of a row, and a quarter of the way down."""
    f1 = torch.tensor([2.0, 1.0], device=device).view(1, 2, 1, 1)
    f2 = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]], device=device)[None]
    coords = torch.tensor([0.5, 0.25], device=device).view(1, 2, 1, 1)
    dots = [[2 * 1 + 5, 2 * 2 + 6], [2 * 3 + 7, 2 * 4 + 8]]
    expected = 0.75 * (dots[0][0] + dots[0][1]) / 2 + 0.25 * (dots[1][0] + dots[1][1]) / 2
    result = correlation_lookup(f1, f2, coords, radius=0)
    assert result.item() == pytest.approx(expected / 2**0.5)


def test_stereo_stays_in_its_row(device):
    f1, f2 = torch.randn(2, 2, 6, 5, 12, dtype=torch.float64, device=device)
    x = 14 * torch.rand(2, 1, 5, 12, dtype=torch.float64, device=device) - 1
    pyramid = correlation_pyramid(f2, 2, rows=False)
    result = correlation_lookup_1d(f1, pyramid, x, 2)
    assert result.shape == (2, 10, 5, 12)
    for level, right in enumerate(pyramid):
        for b, k, row, column in np.ndindex(2, 5, 5, 12):
            at = x[b, 0, row, column].item() / 2**level + k - 2
            first = int(np.floor(at))
            value = 0.0
            for n, weight in ((first, 1 - at + first), (first + 1, at - first)):
                if 0 <= n < right.shape[3]:
                    value += weight * (f1[b, :, row, column] @ right[b, :, row, n]).item()
            assert result[b, 5 * level + k, row, column].item() == pytest.approx(value / 6**0.5)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_stereo_uses_the_right_row_for_half_coordinates(half, device):
    """bfloat16 cannot represent 257, and float16 not 2049."""
    f1, f2 = torch.randn(2, 1, 4, 2100, 5, device=device)
    x = torch.arange(5.0, device=device).expand(1, 1, 2100, 5)
    result = correlation_lookup_1d(f1, f2, x.to(half), 2)
    assert torch.equal(result, correlation_lookup_1d(f1, f2, x, 2))


def test_stereo_refuses_a_pyramid_with_halved_rows(device):
    f1, f2 = torch.randn(2, 1, 4, 8, 16, device=device)
    x = torch.zeros(1, 1, 8, 16, device=device)
    with pytest.raises(ValueError, match=r"same rows, got 8 and 4 \(.* with rows=False"):
        correlation_lookup_1d(f1, correlation_pyramid(f2, 2), x, 2)


def test_windows_at_coordinates_that_are_not_finite_are_zero(device, dtype):
    f1, f2 = torch.ones(2, 1, 4, 1, len(WILD), device=device, dtype=dtype)
    for axis in (0, 1):
        coords = torch.zeros(1, 2, 1, len(WILD), device=device)
        coords[0, axis, 0] = torch.tensor(WILD)
        coords.requires_grad_()
        inputs = [f1.clone().requires_grad_(), f2.clone().requires_grad_(), coords]
        out = correlation_lookup(*inputs, 1)
        assert out.count_nonzero() == 0
        for grad in torch.autograd.grad(out, inputs, torch.ones_like(out)):
            assert grad.count_nonzero() == 0


@pytest.mark.parametrize("poisoned", [0, 1])
def test_features_that_are_not_finite_spoil_only_their_windows(poisoned, device):
    f1, f2, coords = problem(CASES[1], torch.float64, device)
    (f1, f2)[poisoned][0, 0, 0] = float("inf")
    g = torch.randn(2, 25, 5, 7, device=device, dtype=torch.float64)
    inputs, size = (f1, f2, coords), window(CASES[1])
    result = [ops.correlation_lookup(*inputs, *size)]
    result += ops.correlation_lookup_grad(g, *inputs, *size)
    expected = [correlation_lookup_reference(*inputs, *size)]
    expected += correlation_lookup_grad_reference(g, *inputs, *size)
    assert not result[0].isfinite().all() and result[0].isfinite().any()
    for one, other in zip(result, expected, strict=True):
        assert torch.equal(one.isfinite(), other.isfinite())


def test_reference_takes_any_strides(device):
    f1, f2, coords = problem(CASES[1], torch.float64, device)
    g = torch.randn(2, 25, 5, 7, device=device, dtype=torch.float64)
    expected = correlation_lookup_grad_reference(g, f1, f2, coords, *window(CASES[1]))
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (f1, f2)]
    strided.append(coords.transpose(2, 3).contiguous().transpose(2, 3))
    result = correlation_lookup_grad_reference(g, *strided, *window(CASES[1]))
    for one, other in zip(result, expected, strict=True):
        torch.testing.assert_close(one, other)


def differentiable(device):
    """A small problem without integer coordinates, where the derivative is discontinuous."""
    f1, f2 = torch.randn(2, 1, 2, 2, 3, dtype=torch.float64, device=device)
    coords = torch.tensor([0.3, 1.6, 2.7, -0.4, 0.8, 1.2], dtype=torch.float64, device=device)
    return [
        t.requires_grad_() for t in (f1, f2, torch.stack([coords, coords.flip(0)]).view(1, 2, 2, 3))
    ]


def test_gradients(device):
    inputs = differentiable(device)
    function = lambda a, b, c: correlation_lookup(a, b, c, 1)  # noqa: E731
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_gradients_through_a_pyramid(device):
    f1, f2, coords = differentiable(device)
    assert torch.autograd.gradcheck(
        lambda a, b, c: correlation_lookup(a, correlation_pyramid(b, 2), c, 1), (f1, f2, coords)
    )
    assert torch.autograd.gradcheck(
        lambda a, b, c: correlation_lookup_1d(a, b, c[:, :1], 1), (f1, f2, coords)
    )


@pytest.mark.parametrize("grad", [False, True])
def test_registration(grad, device):
    inputs = [t.requires_grad_(grad) for t in problem(CASES[1], torch.float32, device)]
    torch.library.opcheck(ops.correlation_lookup.default, (*inputs, *window(CASES[1])))
    g = torch.randn(2, 25, 5, 7, device=device, requires_grad=grad)
    torch.library.opcheck(ops.correlation_lookup_grad.default, (g, *inputs, *window(CASES[1])))


@pytest.mark.parametrize("grad", [False, True])
def test_registration_of_the_pyramid(grad, device):
    f1, f2, coords = (t.requires_grad_(grad) for t in problem(CASES[1], torch.float32, device))
    levels = [f2, f2[:, :3, :4].contiguous().detach().requires_grad_(grad)]
    arguments = (f1, levels, coords, True, 2, 1)
    torch.library.opcheck(ops.correlation_lookup_pyramid.default, arguments)


@pytest.mark.parametrize("halve_rows", [True, False])
def test_a_pyramid_is_its_levels(halve_rows, device, dtype):
    f1, f2, coords = problem((2, 32, (5, 7), (6, 9), 2, 2), dtype, device)
    levels = [f2, f2[:, :3, :4].contiguous(), f2[:, :1, :2].contiguous()]
    result = ops.correlation_lookup_pyramid(f1, levels, coords, halve_rows, 2, 1)
    scales = [(0.5**n if halve_rows else 1.0, 0.5**n) for n in range(3)]
    each = [
        ops.correlation_lookup(f1, level, coords, *scale, 2, 1)
        for level, scale in zip(levels, scales, strict=True)
    ]
    assert torch.equal(result, torch.cat(each, 1))


def test_a_pyramid_has_a_level(device):
    f1, _, coords = problem(CASES[1], torch.float32, device)
    with pytest.raises(RuntimeError, match="a level is needed"):
        ops.correlation_lookup_pyramid(f1, [], coords, True, 2, 1)


def two_levels(f1, f2, coords):
    return correlation_lookup(f1, correlation_pyramid(f2, 2), coords, 2)


def features(device, dtype=torch.float32):
    f1, f2 = torch.randn(2, 2, 8, 6, 7, device=device).to(dtype)
    return f1, f2, 8 * torch.rand(2, 2, 6, 7, device=device)


def test_compiles(device):
    inputs = [t.requires_grad_() for t in features(device)]
    compiled = torch.compile(lambda *t: two_levels(*t).square().sum(), fullgraph=True)
    expected = two_levels(*inputs).square().sum()
    torch.testing.assert_close(compiled(*inputs), expected)
    result = torch.autograd.grad(compiled(*inputs), inputs)
    for one, other in zip(result, torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_exports(device):
    class Net(torch.nn.Module):
        def forward(self, *inputs):
            return two_levels(*inputs)

    inputs = features(device)
    program = torch.export.export(Net(), inputs)
    torch.testing.assert_close(program.module()(*inputs), two_levels(*inputs))


def test_vmap(device):
    f1, f2 = torch.randn(2, 3, 2, 8, 6, 7, device=device)
    coords = 8 * torch.rand(2, 2, 6, 7, device=device)
    mapped = torch.vmap(two_levels, (0, 0, None))(f1, f2, coords)
    each = [two_levels(a, b, coords) for a, b in zip(f1, f2, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(each))


def test_autocast_keeps_the_type_of_the_features(device):
    f1, f2, coords = features(device, torch.bfloat16)
    with torch.autocast(device, torch.bfloat16):
        out = correlation_lookup(f1, f2, coords, 2)
    assert out.dtype == torch.bfloat16
    exact = correlation_lookup(f1.double(), f2.double(), coords.double(), 2)
    torch.testing.assert_close(out, exact.bfloat16(), rtol=1.6e-2, atol=1e-2)


def test_autocast_takes_the_widest_type(device):
    f1, f2, coords = features(device)
    with torch.autocast(device, torch.bfloat16):
        result = correlation_lookup(f1.bfloat16(), [f2, f2.bfloat16()], coords, 2)
    assert result.dtype == torch.float32
    expected = correlation_lookup(f1.bfloat16().float(), [f2, f2.bfloat16().float()], coords, 2)
    assert torch.equal(result, expected)


def test_meta_device():
    f, coords = torch.empty(2, 3, 7, 5, device="meta"), torch.empty(2, 2, 7, 5, device="meta")
    assert correlation_lookup(f, [f, f], coords, 2).shape == (2, 50, 7, 5)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_empty(shape, device):
    f = torch.ones(shape, device=device, requires_grad=True)
    coords = torch.zeros(shape[0], 2, *shape[2:], device=device, requires_grad=True)
    out = correlation_lookup(f, f, coords, 1)
    assert out.shape == (shape[0], 9, *shape[2:])
    assert out.abs().sum() == 0
    out.sum().backward()
    assert f.grad.shape == shape and coords.grad.shape == coords.shape


def test_an_empty_second_image(device):
    f1, coords = torch.ones(1, 3, 4, 5, device=device), torch.zeros(1, 2, 4, 5, device=device)
    out = correlation_lookup(f1, torch.ones(1, 3, 0, 5, device=device), coords, 1)
    assert out.shape == (1, 9, 4, 5) and out.count_nonzero() == 0


@pytest.mark.parametrize("shapes", [((2, 0, 4, 5), (2, 0, 4, 5)), ((2, 3, 4, 5), (2, 3, 0, 5))])
def test_double_backward_of_empty_inputs(shapes, device):
    f1, f2 = (torch.ones(shape, device=device, requires_grad=True) for shape in shapes)
    coords = torch.zeros(2, 2, 4, 5, device=device, requires_grad=True)
    out = correlation_lookup(f1, f2, coords, 1)
    first = torch.autograd.grad(out.sum(), (f1, f2, coords), create_graph=True)
    second = torch.autograd.grad(sum(g.sum() for g in first), (f1, f2, coords))
    for grad in (*first, *second):
        assert grad.count_nonzero() == 0


def test_repeatable(device):
    inputs = [
        t.requires_grad_() for t in problem((2, 70, (9, 17), (9, 17), 2, 2), torch.float32, device)
    ]

    def results():
        out = ops.correlation_lookup(*inputs, 1.0, 1.0, 2, 2)
        return (out, *torch.autograd.grad(out.square().sum(), inputs))

    for once, again in zip(results(), results(), strict=True):
        assert torch.equal(once, again)


def test_threads_do_not_change_the_bits(same_with_any_threads):
    case = (2, 70, (9, 37), (9, 37), 2, 2)
    inputs = problem(case, torch.float32, "cpu")
    g = torch.randn(2, 25, 9, 37)
    same_with_any_threads(lambda: (ops.correlation_lookup(*inputs, *window(case)),))
    same_with_any_threads(lambda: ops.correlation_lookup_grad(g, *inputs, *window(case)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_geometry(data):
    """Random sizes and coordinates, with all kinds of borders of windows."""
    side = st.integers(1, 9)
    case = (
        data.draw(st.integers(1, 2)),
        data.draw(st.integers(1, 40)),
        (data.draw(side), data.draw(st.integers(1, 20))),
        (data.draw(side), data.draw(side)),
        data.draw(st.integers(0, 4)),
        data.draw(st.integers(0, 7)),
    )
    f1, f2, coords = problem(case, torch.float64, "cpu")
    place = st.floats(allow_nan=True, allow_infinity=True, width=32)
    coords.view(-1)[data.draw(st.integers(0, coords.numel() - 1))] = data.draw(place)
    out = ops.correlation_lookup(f1, f2, coords, *window(case))
    torch.testing.assert_close(out, correlation_lookup_reference(f1, f2, coords, *window(case)))
    result = ops.correlation_lookup_grad(out, f1, f2, coords, *window(case))
    expected = correlation_lookup_grad_reference(out, f1, f2, coords, *window(case))
    for one, other in zip(result, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"f2": torch.zeros(1, 7, 4, 4)},
            r"\[B, C, H2, W2\], got \(1, 8, 6, 7\) and \(1, 7, 4, 4\)",
        ),
        ({"f2": torch.zeros(1, 8, 4, 4).double()}, "same float type, got torch.float32"),
        ({"f2": []}, "sequence of at least one tensor, got an empty"),
        ({"coords": torch.zeros(1, 2, 6, 6)}, r"floats \[B, 2, H, W\] for f1 of \(1, 8, 6, 7\)"),
        ({"coords": torch.zeros(1, 2, 6, 7).int()}, "got torch.int32"),
        ({"coords": torch.zeros(1, 2, 6, 7, device="meta")}, "same device, got cpu, cpu, meta"),
        ({"radius": -1}, "0 <= radius < 2.10 is needed, got -1"),
    ],
)
def test_refuses(change, message):
    good = {
        "f1": torch.zeros(1, 8, 6, 7),
        "f2": torch.zeros(1, 8, 6, 7),
        "coords": torch.zeros(1, 2, 6, 7),
        "radius": 1,
    }
    with pytest.raises(ValueError, match=message):
        correlation_lookup(**{**good, **change})


def test_pyramid_refuses_what_is_too_small():
    with pytest.raises(ValueError, match="large enough for 4 levels, got"):
        correlation_pyramid(torch.zeros(1, 2, 7, 20), 4)
    assert len(correlation_pyramid(torch.zeros(1, 2, 7, 20), 4, rows=False)) == 4


def test_kernel_protects_memory():
    f = torch.zeros(1, 4, 4, 2)
    with pytest.raises(RuntimeError, match=r"coords must be \[B, 2, H, W\], float32"):
        ops.correlation_lookup(f, f, torch.zeros(1, 2, 4, 3), 1.0, 1.0, 1, 1)
    with pytest.raises(RuntimeError, match="of the same type"):
        ops.correlation_lookup(f, torch.zeros(1, 4, 4, 3), torch.zeros(1, 2, 4, 4), 1.0, 1.0, 1, 1)
