"""Cost volumes whose grid of displacements is not a square around zero, and those of groups."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmatch.ops import correlation
from flowmatch.ops.correlation_reference import correlation_grad_reference, correlation_reference

ops = torch.ops.flowmatch

CASES = [  # B, C, H, W, radius, stride, offset
    (2, 3, 7, 5, (0, 2), 1, (0, 0)),  # a row, as in stereo
    (1, 5, 9, 33, (0, 12), 1, (0, -12)),  # disparities to one side
    (1, 4, 6, 40, (3, 1), 2, (1, -3)),  # offsets that are not on the lattice of the stride
    (1, 9, 11, 17, (1, 4), 3, (-4, 5)),
    (1, 2, 3, 4, (1, 1), 1, (9, 0)),  # all rows outside
    (1, 2, 3, 4, (1, 1), 1, (0, -9)),  # all columns outside
    (2, 2, 5, 6, (1, 2), 2**30, (-(2**30), 2**30 + 1)),  # a far lattice that comes near again
]


def features(case, dtype, device):
    return tuple(torch.randn(2, *case[:4], device=device).to(dtype))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_reference(case, device, dtype, close):
    f1, f2 = features(case, dtype, device)
    *_, radius, stride, offset = case
    volume = correlation(f1, f2, radius, stride, offset=offset)
    expected = correlation_reference(f1.double(), f2.double(), radius, stride, False, offset)
    close(volume, expected)
    g = torch.randn(volume.shape, device=device).to(dtype)
    for other, first in ((f2, True), (f1, False)):
        grad = ops.correlation_grad(g, other, radius, stride, first, False, offset)
        wide = (g.double(), other.double())
        close(grad, correlation_grad_reference(*wide, radius, stride, first, False, offset))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_of_the_gradient_equals_autograd(case, device):
    f1, f2 = (f.requires_grad_() for f in features(case, torch.float64, device))
    *_, radius, stride, offset = case
    volume = correlation_reference(f1, f2, radius, stride, False, offset)
    g = torch.randn_like(volume)
    expected = torch.autograd.grad(volume, (f1, f2), g)
    for other, first, grad in ((f2, True, expected[0]), (f1, False, expected[1])):
        wide = (g, other.detach())
        result = correlation_grad_reference(*wide, radius, stride, first, False, offset)
        torch.testing.assert_close(result, grad)


def test_known_value(device):
    """Disparities 0, 1 and 2 of a row of four pixels."""
    left = torch.tensor([1.0, 2.0, 3.0, 4.0], device=device).view(1, 1, 1, 4)
    right = torch.tensor([5.0, 6.0, 7.0, 8.0], device=device).view(1, 1, 1, 4)
    volume = correlation(left, right, (0, 1), 1, offset=(0, -1))
    assert volume[0, :, 0].tolist() == [  # displacements -2, -1, 0
        [0, 0, 3 * 5, 4 * 6],
        [0, 2 * 5, 3 * 6, 4 * 7],
        [1 * 5, 2 * 6, 3 * 7, 4 * 8],
    ]


def test_parts_of_the_square_have_its_bits(device):
    """Rectangles, and squares moved by whole steps, are cut out of the usual volume."""
    f1, f2 = features((2, 37, 11, 45), torch.float32, device)
    square = correlation(f1, f2, 4, 2).unflatten(1, (9, 9))
    for radius, offset in (((0, 4), (0, 0)), ((4, 1), (0, 0)), ((1, 2), (-4, 4)), (2, (4, -4))):
        ry, rx = (radius, radius) if isinstance(radius, int) else radius
        y, x = (4 + o // 2 for o in offset)
        part = square[:, y - ry : y + ry + 1, x - rx : x + rx + 1].flatten(1, 2)
        assert torch.equal(correlation(f1, f2, radius, 2, offset=offset), part)


def test_groups_are_volumes_of_their_channels(device):
    f1, f2 = features((2, 12, 5, 7), torch.float32, device)
    volume = correlation(f1, f2, (0, 2), 1, offset=(0, -2), groups=3)
    parts = zip(f1.split(4, 1), f2.split(4, 1), strict=True)
    each = [correlation(a, b, (0, 2), 1, offset=(0, -2)) for a, b in parts]
    assert torch.equal(volume, torch.cat(each, 1))
    empty = torch.ones(0, 4, 3, 3, device=device)
    assert correlation(empty, empty, 1, 1, groups=2).shape == (0, 18, 3, 3)


def test_gradients(device):
    inputs = tuple(f.requires_grad_() for f in features((1, 4, 3, 4), torch.float64, device))
    function = lambda a, b: correlation(a, b, (1, 0), 2, offset=(1, -1), groups=2)  # noqa: E731
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs, check_fwd_over_rev=True)


def test_registration(device):
    f1, f2 = (f.requires_grad_() for f in features(CASES[2], torch.float32, device))
    g = torch.randn(1, 21, 6, 40, device=device, requires_grad=True)
    torch.library.opcheck(ops.correlation.default, (f1, f2, (3, 1), 2, False, (1, -3)))
    for first in (True, False):
        arguments = (g, f1, (3, 1), 2, first, False, (1, -3))
        torch.library.opcheck(ops.correlation_grad.default, arguments)


def test_compiles_and_maps(device):
    function = lambda a, b: correlation(a, b, (1, 2), 1, offset=(0, 1), groups=2)  # noqa: E731
    f1, f2 = torch.randn(2, 3, 2, 4, 5, 6, device=device)
    each = torch.stack([function(a, b) for a, b in zip(f1, f2, strict=True)])
    torch.testing.assert_close(torch.vmap(function)(f1, f2), each)
    compiled = torch.compile(function, fullgraph=True)
    torch.testing.assert_close(compiled(f1[0], f2[0]), each[0])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_geometry(data):
    B, C, H, W = (data.draw(st.integers(1, most)) for most in (2, 9, 12, 40))
    radius = tuple(data.draw(st.integers(0, 5)) for _ in range(2))
    offset = tuple(data.draw(st.integers(-20, 20)) for _ in range(2))
    stride = data.draw(st.integers(1, 6))
    f1, f2 = features((B, C, H, W), torch.float64, "cpu")
    volume = correlation(f1, f2, radius, stride, offset=offset)
    expected = correlation_reference(f1, f2, radius, stride, False, offset)
    torch.testing.assert_close(volume, expected)
    for other, first in ((f2, True), (f1, False)):
        grad = ops.correlation_grad(volume, other, radius, stride, first, False, offset)
        expected = correlation_grad_reference(volume, other, radius, stride, first, False, offset)
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": (1, -1)}, r"0 <= radius .* got \(1, -1\) and 1"),
        ({"radius": (1, 2, 3)}, r"a number or \(y, x\).* got \(1, 2, 3\)"),
        ({"offset": (0, 2**31)}, r"offset must be \(y, x\) in .* got \(0, 2147483648\)"),
        ({"offset": (1,)}, r"offset must be \(y, x\) in .* got \(1,\)"),
        ({"groups": 3}, "groups must divide the 4 channels, got 3"),
        ({"groups": 0}, "groups must divide the 4 channels, got 0"),
    ],
)
def test_refuses(arguments, message):
    f = torch.zeros(1, 4, 3, 3)
    with pytest.raises(ValueError, match=message):
        correlation(f, f, **{"radius": 1, "stride": 1, **arguments})
