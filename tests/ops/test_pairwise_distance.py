"""Pairwise distances against differences in float64, especially where cancellation occurs."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmatch.ops import active_kernel, pairwise_distance
from flowmatch.ops.pairwise_distance import pairwise_distance_reference

ops = torch.ops.flowmatch

CASES = [  # B, N, M, D
    (1, 1, 1, 1),
    (2, 20, 50, 7),  # fewer dimensions than a vector
    (3, 13, 32, 64),  # exactly one tile
    (1, 14, 33, 65),  # one more along each dimension
    (1, 100, 130, 128),
]


def vectors(case, dtype, device):
    B, N, M, D = case
    return (torch.randn(B, count, D, device=device).to(dtype) for count in (N, M))


def test_is_compiled(device):
    assert active_kernel("pairwise_distance", device) == "compiled"


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("metric", [0, 1], ids=["l2", "dot"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_reference(case, metric, contiguous, device, dtype, close):
    x, y = vectors(case, dtype, device)
    if not contiguous:
        x, y = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (x, y))
    result = ops.pairwise_distance(x, y, metric)
    assert result.dtype == dtype
    close(result, pairwise_distance_reference(x.double(), y.double(), metric))


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_gradients_equal_those_of_differences(case, metric, device):
    x, y = (t.requires_grad_() for t in vectors(case, torch.float64, device))
    result = pairwise_distance(x, y, metric)
    a, b = (F.normalize(t, dim=-1) for t in (x, y)) if metric == "cosine" else (x, y)
    plain = (a[:, :, None] - b[:, None]).norm(dim=-1) if metric == "l2" else a @ b.transpose(1, 2)
    plain = 1 - plain if metric == "cosine" else plain
    torch.testing.assert_close(result, plain)
    g = torch.randn_like(result)
    for one, other in zip(
        torch.autograd.grad(result, (x, y), g), torch.autograd.grad(plain, (x, y), g), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_known_values(device):
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], device=device)
    assert pairwise_distance(x, x).tolist() == [[0, 5], [5, 0]]
    assert pairwise_distance(x, x, "dot").tolist() == [[0, 0], [0, 25]]
    cosine = pairwise_distance(x, x, "cosine").tolist()
    assert cosine == [[pytest.approx(1)] * 2, [pytest.approx(1), 0]]


def test_cosine_of_close_directions(device):
    """Angles so small that 1 - product has no correct digit, and may be negative."""
    x = F.normalize(torch.randn(100, 64, dtype=torch.float64), dim=1).float()
    y = x + 1e-5 * torch.randn(100, 64)
    units = [F.normalize(t.double(), dim=1) for t in (x, y)]
    expected = (units[0] - units[1]).square().sum(1) / 2  # about 3e-9
    result = pairwise_distance(x.to(device), y.to(device), "cosine").diagonal()
    torch.testing.assert_close(result.double().cpu(), expected, rtol=1e-2, atol=0)


def test_cosine_of_any_length(device, dtype):
    """Zero vectors have distance 1 to all; very short and very long vectors have a direction."""
    zero, ones = (f((1, 8), device=device, dtype=dtype) for f in (torch.zeros, torch.ones))
    result = pairwise_distance(torch.cat([zero, ones]), zero, "cosine")
    assert result.dtype == dtype and result.flatten().tolist() == [pytest.approx(1)] * 2
    for scale in (1e-7, 1e-30, 1e30) if dtype != torch.float16 else (1e-7, 1e4):
        assert pairwise_distance(ones * scale, ones, "cosine").item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_autocast_uses_the_kernels_of_half_types(metric, device, dtype):
    x, y = vectors(CASES[3], dtype, device)
    with torch.autocast(device, torch.bfloat16):
        result = pairwise_distance(x, y, metric)
    assert result.dtype == dtype
    assert torch.equal(result, pairwise_distance(x, y, metric))


def test_directions_of_half_types_are_float32(device):
    """Only the result is rounded to the half type, under autocast and without it."""
    x, y = (t.bfloat16() for t in vectors(CASES[3], torch.float32, device))
    with torch.autocast(device, torch.bfloat16):
        result = pairwise_distance(x, y, "cosine")
    expected = pairwise_distance(x.double(), y.double(), "cosine")
    torch.testing.assert_close(result, expected.bfloat16(), rtol=2**-7, atol=0)


def test_close_pairs_far_from_the_origin(device):
    """Pairs for which |x|^2 + |y|^2 - 2 x.y has no correct digit (pytorch #42479, #57690)."""
    x = 1000 + torch.randn(50, 64, dtype=torch.float64)
    y = torch.cat([x[:20] + 1e-2 * torch.randn(20, 64, dtype=torch.float64), x[20:], -x])
    x, y = x.float().to(device), y.float().to(device)
    expected = pairwise_distance_reference(x[None].double(), y[None].double(), 0)[0]
    result = pairwise_distance(x, y)
    torch.testing.assert_close(result.double(), expected, rtol=2e-5, atol=0)
    assert (result.diagonal()[20:] == 0).all()


def test_error_of_distances_between_clusters(device):
    """The largest errors are at about 3 standard deviations: little cancels."""
    x, y = (torch.randn(n, 64, device=device) + 3 for n in (400, 500))
    expected = pairwise_distance_reference(x[None].double(), y[None].double(), 0)[0]
    assert ((pairwise_distance(x, y) - expected).abs() / expected).max() < 5e-6


def test_vectors_that_are_not_finite_affect_only_their_distances(device):
    x, y = torch.randn(5, 20, device=device), torch.randn(7, 20, device=device)
    x[2, 3], y[4, 5], y[1, 0] = float("nan"), float("inf"), 1e25
    result = pairwise_distance(x, y)
    assert result[2].isnan().all()
    assert result[[0, 1, 3, 4], 4].isinf().all() and (result[[0, 1, 3, 4], 1] == 1e25).all()
    assert result[[0, 1, 3, 4]][:, [0, 2, 3, 5, 6]].isfinite().all()


@pytest.mark.parametrize("size", [1e18, 1e25, 1e38])
def test_distances_whose_squares_overflow(size, device):
    """Distances between long vectors, from them to short ones, and between the short ones."""
    x, y = torch.rand(9, 20, dtype=torch.float64), torch.rand(70, 20, dtype=torch.float64)
    for vectors_ in (x, y):
        vectors_[::3] *= size / 20
    y[3] = x[0] * (1 + 1e-6)
    expected = pairwise_distance_reference(x[None].float().double(), y[None].float().double(), 0)[0]
    inputs = [t.float().to(device).requires_grad_() for t in (x, y)]
    result = pairwise_distance(*inputs)
    torch.testing.assert_close(result.double().cpu(), expected, rtol=5e-6, atol=0)
    for grad in torch.autograd.grad(result.sum(), inputs):
        assert grad.isfinite().all()


def test_squares_of_float64_overflow(device):
    x = torch.full((1, 3), 1e200, dtype=torch.float64, device=device)
    result = pairwise_distance(x, torch.cat([-x, 0 * x, x]))
    expected = x.new_tensor([[12**0.5 * 1e200, 3**0.5 * 1e200, 0]])
    torch.testing.assert_close(result, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(pairwise_distance_reference(x[None], -x[None], 0)[0], result[:, :1])


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_gradients(metric, device):
    x, y = (t.requires_grad_() for t in vectors((2, 3, 4, 3), torch.float64, device))
    function = lambda a, b: pairwise_distance(a, b, metric)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, y))
    assert torch.autograd.gradgradcheck(function, (x, y))


def test_weights(device, dtype):
    g = torch.tensor([1.0, -3.0, 5.0], device=device, dtype=dtype)
    distance = torch.tensor([2.0, 0.0, 4.0], device=device, dtype=dtype)
    assert ops.pairwise_distance_weight(g, distance).tolist() == [0.5, 0.0, 1.25]


def test_no_gradient_at_distance_zero(device):
    x = torch.randn(4, 5, device=device, requires_grad=True)
    distance = pairwise_distance(x, x.detach().clone())
    assert (distance.diagonal() == 0).all()
    (grad,) = torch.autograd.grad(distance.diagonal().sum(), x, create_graph=True)
    assert grad.count_nonzero() == 0
    distance = pairwise_distance(x, x)
    (grad,) = torch.autograd.grad(distance.sum(), x, create_graph=True)
    assert grad.isfinite().all()
    grad.square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("grad", [False, True])
def test_registration(grad, device):
    x, y = (t.requires_grad_(grad) for t in vectors(CASES[1], torch.float32, device))
    torch.library.opcheck(ops.pairwise_distance.default, (x, y, 0))
    torch.library.opcheck(ops.pairwise_distance.default, (x, y, 1))
    torch.library.opcheck(ops.pairwise_distance_weight.default, (x, x.detach().abs() + 1))


def test_compiles(device):
    x, y = (t.requires_grad_() for t in vectors(CASES[1], torch.float32, device))
    compiled = torch.compile(lambda a, b: pairwise_distance(a, b).square().sum(), fullgraph=True)
    expected = pairwise_distance(x, y).square().sum()
    torch.testing.assert_close(compiled(x, y), expected)
    result = torch.autograd.grad(compiled(x, y), (x, y))
    torch.testing.assert_close(result, torch.autograd.grad(expected, (x, y)))


def test_exports(device):
    class Net(torch.nn.Module):
        def forward(self, a, b):
            return pairwise_distance(a, b, "cosine")

    pair = tuple(vectors(CASES[1], torch.float32, device))
    program = torch.export.export(Net(), pair)
    torch.testing.assert_close(program.module()(*pair), Net()(*pair))


def test_vmap(device):
    x, y = torch.randn(3, 5, 6, device=device), torch.randn(7, 6, device=device)
    mapped = torch.vmap(lambda a: pairwise_distance(a, y))(x)
    torch.testing.assert_close(mapped, pairwise_distance(x, y.expand(3, 7, 6)))


def test_autocast_takes_the_wider_of_two_types(device):
    x, y = vectors(CASES[1], torch.float32, device)
    with torch.autocast(device, torch.bfloat16):
        result = pairwise_distance(x.bfloat16(), y)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, pairwise_distance(x.bfloat16().float(), y))


def test_meta_device():
    x, y = torch.empty(2, 5, 6, device="meta"), torch.empty(2, 7, 6, device="meta")
    assert pairwise_distance(x, y).shape == (2, 5, 7)


@pytest.mark.parametrize("sizes", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_empty(sizes, device):
    B, N, M, D = sizes
    x = torch.ones(B, N, D, device=device, requires_grad=True)
    result = pairwise_distance(x, torch.ones(B, M, D, device=device))
    assert result.shape == (B, N, M) and result.count_nonzero() == 0
    result.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("batch", [1, 2, 40])
def test_threads_do_not_change_the_bits(batch, same_with_any_threads):
    x, y = vectors((batch, 100, 130, 33), torch.float32, "cpu")
    (result,) = same_with_any_threads(lambda: (pairwise_distance(x, y),))
    torch.testing.assert_close(result, pairwise_distance_reference(x, y, 0), rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_geometry(data):
    case = tuple(data.draw(st.integers(1, most)) for most in (3, 40, 70, 40))
    x, y = vectors(case, torch.float64, "cpu")
    scale = 10.0 ** data.draw(st.integers(-6, 6))
    result = pairwise_distance(x + scale, y + scale)
    torch.testing.assert_close(
        result, pairwise_distance_reference(x + scale, y + scale, 0), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.zeros(7, 5)}, r"got \(5, 6\) and \(7, 5\)"),
        ({"y": torch.zeros(1, 7, 6)}, r"got \(5, 6\) and \(1, 7, 6\)"),
        ({"y": torch.zeros(7, 6).double()}, "same float type, got torch.float32 and"),
        ({"y": torch.zeros(7, 6, device="meta")}, "same device, got cpu and meta"),
        ({"metric": "l1"}, "one of l2, cosine, dot, got 'l1'"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        pairwise_distance(**{"x": torch.zeros(5, 6), "y": torch.zeros(7, 6), **change})


def test_kernel_protects_memory():
    with pytest.raises(RuntimeError, match="of the same type and device"):
        ops.pairwise_distance(torch.zeros(1, 4, 4), torch.zeros(1, 4, 5), 0)


def test_gradients_of_vectors_that_share_an_offset(device):
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        x, y, g = (torch.randn(1, *s, device=device) for s in ((33, 64), (45, 64), (33, 45)))
        x, y, g = (x + 1000).to(dtype), (y + 1000).to(dtype), g.to(dtype)
        x, y = x.requires_grad_(), y.requires_grad_()
        result = torch.autograd.grad(pairwise_distance(x, y), (x, y), g)
        a, b = (t.detach().double().requires_grad_() for t in (x, y))
        distance = (a[:, :, None] - b[:, None]).norm(dim=-1)
        expected = torch.autograd.grad(distance, (a, b), g.double())
        for grad, exact in zip(result, expected, strict=True):
            assert (grad.double() - exact).norm() < tolerance * exact.norm()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_of_close_pairs_in_half_types(half, device):
    """1 / distance overflows float16, and terms that cancel must not be rounded first."""
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0]], device=device, dtype=half, requires_grad=True)
    y = torch.tensor([[1e-5, 0.0], [3.0, 3.0]], device=device, dtype=half)
    for create_graph in (False, True):
        distance = pairwise_distance(x, y)
        (grad,) = torch.autograd.grad(distance[0, 0], x, create_graph=create_graph)
        assert grad[0].tolist() == [pytest.approx(-1, abs=0.01), 0] and (grad[1] == 0).all()
    x = F.normalize(torch.randn(64, 128, device=device), dim=1).to(half)
    y = (x + 0.01 * torch.randn(64, 128, device=device)).to(half)
    x, exact = x.requires_grad_(), x.double().detach().requires_grad_()
    (result,) = torch.autograd.grad(pairwise_distance(x, y).diagonal().sum(), x)
    (expected,) = torch.autograd.grad((exact - y.double()).norm(dim=1).sum(), exact)
    assert (result.double() - expected).norm() < 4 * torch.finfo(half).eps * expected.norm()
