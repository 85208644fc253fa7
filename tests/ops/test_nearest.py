"""Nearest neighbours against all distances in float64."""

import importlib
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmatch.ops import active_kernel, nearest
from flowmatch.ops.nearest_reference import nearest_hamming_reference, nearest_reference

ops = torch.ops.flowmatch
module = importlib.import_module("flowmatch.ops.nearest")  # its name is that of the function

CASES = [  # B, N, M, D, k
    (1, 1, 1, 1, 1),  # smallest sizes
    (2, 20, 50, 7, 3),  # fewer dimensions than a vector
    (1, 100, 333, 128, 2),  # several incomplete tiles of queries and panels
    (3, 5, 2, 16, 4),  # fewer references than k
    (1, 13, 32, 64, 1),  # exactly one tile times one panel
    (1, 14, 33, 65, 5),  # one more along each dimension
    (1, 40, 600, 20, 300),  # a long list
    (1, 20, 2000, 20, 200),  # one that is shortened several times
]
NONE = (None, None, None)


def vectors(case, dtype, device):
    B, N, M, D, _ = case
    return (torch.randn(B, count, D, device=device).to(dtype) for count in (N, M))


def strings(case, device):
    B, N, M, D, _ = case
    return (
        torch.randint(0, 256, (B, count, D), dtype=torch.uint8, device=device) for count in (N, M)
    )


def options(kind, case, device):
    """Random lengths, a random mask, or neither."""
    B, N, M, *_ = case
    if kind == "plain":
        return NONE
    if kind == "lengths":
        draw = lambda most: torch.randint(0, most + 1, (B,), device=device)  # noqa: E731
        return draw(N), draw(M), None
    return None, None, torch.rand(B, N, M, device=device) < 0.6


@pytest.mark.parametrize("op", ["nearest", "nearest_hamming"])
def test_is_compiled(op, device):
    assert active_kernel(op, device) == "compiled"


@pytest.mark.parametrize("kind", ["plain", "lengths", "mask"])
@pytest.mark.parametrize("metric", [0, 1], ids=["l2", "dot"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_reference(case, metric, kind, device, dtype):
    query, reference = vectors(case, dtype, device)
    limits = options(kind, case, device)
    distance, index, mutual = ops.nearest(query, reference, case[4], metric, *limits, True)
    expected = nearest_reference(query, reference, case[4], metric, *limits, True)
    close = (1e-12, 1e-12) if dtype == torch.float64 else (1e-5, 2e-5)
    torch.testing.assert_close(distance, expected[0], rtol=close[0], atol=close[1])
    # Exact ties are tested with integers (test_any_geometry); here pairs that are equal in float32
    # may be swapped.
    assert (index != expected[1]).double().mean() < 1e-3
    assert (mutual != expected[2]).double().mean() < 1e-2
    alone = ops.nearest(query, reference, case[4], metric, *limits, False)
    assert torch.equal(alone[0], distance) and torch.equal(alone[1], index)
    assert alone[2].shape == (case[0], 0)


@pytest.mark.parametrize("kind", ["plain", "lengths", "mask"])
@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("case", [*CASES, (1, 50, 70, 32, 2), (1, 9, 90, 64, 2)], ids=str)
def test_hamming_equals_reference(case, mutual, kind, device):
    query, reference = strings(case, device)
    limits = options(kind, case, device)
    result = ops.nearest_hamming(query, reference, case[4], *limits, mutual)
    for one, other in zip(
        result, nearest_hamming_reference(query, reference, case[4], *limits, mutual), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_known_values(device):
    query = torch.tensor([[0.0, 0.0], [2.0, 0.0]], device=device)
    reference = torch.tensor([[0.0, 1.0], [3.0, 4.0], [2.0, 0.0]], device=device)
    result = nearest(query, reference, k=2)
    assert result.index.tolist() == [[0, 2], [2, 0]]
    assert result.distance.tolist() == [[1.0, 2.0], [0.0, pytest.approx(5**0.5)]]
    assert result.accepted is None
    # Of equal products the first reference is returned.
    assert nearest(query, reference, metric="dot").index.tolist() == [[0], [1]]
    cosine = nearest(query, reference, metric="cosine")
    assert cosine.distance.tolist() == [[pytest.approx(1)], [0.0]] and cosine.index[1].item() == 2
    bits = torch.tensor([[0b1011], [0b0001]], dtype=torch.uint8, device=device)
    result = nearest(bits, bits.flip(0), k=2, metric="hamming")
    assert result.distance.tolist() == [[0, 2], [0, 2]]
    assert result.index.tolist() == [[1, 0], [0, 1]]


def test_ratio_and_mutual(device):
    """Four references on a line; the third query has two at the same distance."""
    reference = torch.tensor([[0.0], [10.0], [20.0], [20.5]], device=device)
    query = torch.tensor([[1.0], [9.0], [20.25], [2.0]], device=device)
    ratio = nearest(query, reference, ratio=0.8)
    assert ratio.distance.shape == (4, 1)  # the second is computed but not returned
    assert ratio.accepted.tolist() == [True, True, False, True]
    mutual = nearest(query, reference, mutual=True)
    assert mutual.accepted.tolist() == [True, True, True, False]  # 1 is nearer to 0 than 2 is
    both = nearest(query, reference, ratio=0.8, mutual=True)
    assert both.accepted.tolist() == [True, True, False, False]
    alone = nearest(query, reference[:1], ratio=0.8)
    assert not alone.accepted.any()  # no second neighbour
    assert not nearest(
        reference, reference.repeat(2, 1), ratio=1.0
    ).accepted.any()  # two at distance 0


def test_cosine_equals_reference(device, dtype):
    query, reference = vectors((2, 40, 90, 33, 4), dtype, device)
    result = nearest(query, reference, 4, "cosine")
    units = [F.normalize(t.double(), dim=-1) for t in (query, reference)]
    expected = (1 - units[0] @ units[1].transpose(1, 2)).sort(-1)
    close = (1e-12, 1e-14) if dtype == torch.float64 else (1e-6, 1e-7)
    torch.testing.assert_close(
        result.distance.double(), expected[0][..., :4], rtol=close[0], atol=close[1]
    )
    assert (result.index != expected[1][..., :4]).double().mean() < 1e-2


def test_cosine_of_any_length(device):
    query, reference = torch.randn(50, 16, device=device), torch.randn(80, 16, device=device)
    expected = nearest(query, reference, 2, "cosine", mutual=True)
    q, r = (
        t * 2.0 ** torch.randint(-90, 90, (len(t), 1), device=device) for t in (query, reference)
    )
    for one, other in zip(nearest(q, r, 2, "cosine", mutual=True), expected, strict=True):
        assert torch.equal(one, other)


def test_cosine_of_equal_and_of_no_directions(device):
    query = torch.randn(50, 16, device=device)
    twice = nearest(query, query.repeat(2, 1), 2, "cosine", ratio=1.0)
    assert twice.distance.count_nonzero() == 0 and not twice.accepted.any()
    nothing = torch.zeros(1, 16, device=device)
    one, other = torch.ones(50, 2, device=device), torch.ones(1, 51, device=device)
    result = nearest(nothing, torch.cat([query, nothing]), 51, "cosine")
    torch.testing.assert_close(result.distance, other)
    result = nearest(query, nothing.repeat(2, 1), 2, "cosine")
    torch.testing.assert_close(result.distance, one)


def test_equal_distances_come_by_index(device):
    """More repeated references than a list of candidates can hold."""
    reference = torch.randn(3, 40, device=device).repeat(300, 1)
    query = reference[:3] + 0.01 * torch.randn(3, 40, device=device)
    result = nearest(query, reference, k=4, mutual=True)
    assert result.index.tolist() == [[n, n + 3, n + 6, n + 9] for n in range(3)]
    assert result.accepted.all()
    twice = nearest(torch.cat([query, query]), reference, mutual=True)
    assert twice.accepted.tolist() == [True] * 3 + [False] * 3


def test_close_pairs_far_from_the_origin(device):
    """Pairs for which |q|^2 + |r|^2 - 2 q.r has no correct digit."""
    generator = torch.Generator().manual_seed(1)
    reference = 1000 + torch.randn(500, 32, generator=generator)
    query = reference[:50] + 1e-2 * torch.randn(50, 32, generator=generator)
    result = nearest(query.to(device), reference.to(device), k=2, mutual=True)
    expected = nearest_reference(query[None], reference[None], 2, 0, *NONE, True)
    torch.testing.assert_close(result.index.cpu(), expected[1][0])
    torch.testing.assert_close(result.distance.cpu(), expected[0][0], rtol=1e-5, atol=0)
    assert result.accepted.all()


@pytest.mark.parametrize("scale", [1e-20, 1e-19, 1e18])
def test_sizes_at_the_ends_of_float32(scale, device):
    query, reference = (scale * torch.randn(1, n, 20, device=device) for n in (40, 70))
    for mutual in (False, True):
        result = ops.nearest(query, reference, 3, 0, *NONE, mutual)
        expected = nearest_reference(query, reference, 3, 0, *NONE, mutual)
        assert torch.equal(result[1], expected[1]) and torch.equal(result[2], expected[2])
        torch.testing.assert_close(result[0], expected[0], rtol=1e-4, atol=0)


SPREADS = {  # distributions of vectors that test the bound on the errors of the first pass
    "unit": lambda x: F.normalize(x, dim=-1),
    "integers": lambda x: (40 * x.abs()).round(),
    "far from the origin": lambda x: x + 30,
    "one cluster": lambda x: 1e-3 * x + 1,
    "one long vector": lambda x: torch.cat([x[:, :-1], 1e4 * x[:, -1:]], 1),
    "all lengths": lambda x: x * torch.exp(3 * torch.randn_like(x[..., :1])),
    "squares underflow": lambda x: 1e-22 * x,
    "products underflow": lambda x: 3e-19 * x,
    "half zero": lambda x: x * (torch.arange(x.shape[1]) % 2)[:, None].to(x),
    "repeated": lambda x: x[:, torch.arange(x.shape[1]) % 7],
    "some dimensions underflow": lambda x: torch.cat([1e-39 * x[..., :9], x[..., 9:]], -1),
}


@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize("metric", [0, 1], ids=["l2", "dot"])
@pytest.mark.parametrize("k", [3, 35])
def test_precision_of_the_first_pass_changes_no_bit(k, metric, spread, device):
    """The first pass: in bfloat16, in float32 with `mutual`, and none with a mask."""
    allow_all = torch.ones(1, 70, 300, dtype=torch.bool, device=device)
    for depth in (16, 17, 64, 128):
        query, reference = (spread(torch.randn(1, n, depth, device=device)) for n in (70, 300))
        expected = ops.nearest(query, reference, k, metric, None, None, allow_all, True)
        result = ops.nearest(query, reference, k, metric, *NONE, True)
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
        result = ops.nearest(query, reference, k, metric, *NONE, False)
        assert all(torch.equal(a, b) for a, b in zip(result[:2], expected[:2], strict=True))


@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize("metric", [0, 1], ids=["l2", "dot"])
def test_first_pass_of_long_lists_changes_no_bit(metric, spread, device):
    """Lists that are shortened, and those with too many candidates."""
    query, reference = (spread(torch.randn(1, n, 24, device=device)) for n in (20, 1500))
    reference[0, 750:] = reference[0, :750].clone()  # ties
    allow_all = torch.ones(1, 20, 1500, dtype=torch.bool, device=device)
    most = ops.nearest(query, reference, 1500, metric, None, None, allow_all, False)
    for k in (3, 32, 33, 100, 400):
        result = ops.nearest(query, reference, k, metric, *NONE, False)
        assert all(torch.equal(a, b[..., :k]) for a, b in zip(result[:2], most[:2], strict=True))
        assert torch.equal(result[0].signbit(), most[0][..., :k].signbit())


def test_lengths_of_hamming_lists_change_nothing(device):
    query, reference = strings((1, 9, 1500, 3, 0), device)  # 24 bits: many ties
    most = ops.nearest_hamming(query, reference, 1500, *NONE, True)
    for k in (3, 32, 33, 100, 400):
        result = ops.nearest_hamming(query, reference, k, *NONE, True)
        assert all(torch.equal(a, b[..., :k]) for a, b in zip(result[:2], most[:2], strict=True))
        assert torch.equal(result[2], most[2])


@pytest.mark.parametrize("kind", ["plain", "mask", "hamming"])
def test_time_is_not_quadratic_in_k(kind):
    """Twenty times as many neighbours once took over a hundred times as long."""
    query, reference = torch.randn(1, 100, 16), torch.randn(1, 6000, 16)
    mask = torch.ones(1, 100, 6000, dtype=torch.bool) if kind == "mask" else None
    bits = [(50 * t).byte() for t in (query, reference)]

    def seconds(k):
        times = []
        for _ in range(3):
            start = time.process_time()
            if kind == "hamming":
                ops.nearest_hamming(*bits, k, *NONE, False)
            else:
                ops.nearest(query, reference, k, 0, None, None, mask, False)
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(2000) < 25 * seconds(100)


def seconds_of_search(query, reference):
    """Return the least processor time of five searches."""
    times = []
    for _ in range(5):
        start = time.process_time()
        ops.nearest(query, reference, 2, 0, None, None, None, False)
        times.append(time.process_time() - start)
    return min(times)


def test_vectors_far_from_the_origin_take_no_longer():
    """They once took eight times as long, where the first pass is in bfloat16."""
    pair = torch.randn(2, 1, 1000, 64)

    assert seconds_of_search(*(pair + 10)) < 3 * seconds_of_search(*pair)


CLIFFS = {  # distributions for which the first pass leaves many candidates
    "clusters": lambda x: x[:, torch.arange(x.shape[1]) % 5] + 1e-3 * torch.randn_like(x),
    "all lengths": lambda x: x * torch.exp(1.5 * torch.randn_like(x[..., :1])),
    "half zero": SPREADS["half zero"],
}


@pytest.mark.parametrize("spread", CLIFFS.values(), ids=CLIFFS)
def test_many_candidates_take_not_much_longer(spread):
    """They once took seven times as long as other vectors: all pairs were compared, one by one."""
    plain = torch.randn(2, 1, 2000, 128)

    hard = spread(plain.view(1, 4000, 128)).view_as(plain)
    assert seconds_of_search(*hard) < 4.5 * seconds_of_search(*plain)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_vectors_that_are_not_finite_have_no_neighbours(metric, bad, device):
    query, reference = torch.randn(5, 20, device=device), torch.randn(7, 20, device=device)
    query[2, 3], reference[4, 5] = bad, bad
    result = nearest(query, reference, k=7, metric=metric, mutual=True)
    assert (result.index[2] == -1).all() and result.distance[2].isinf().all()
    assert not (result.index == 4).any()
    rest = [0, 1, 3, 4]
    assert sorted(result.index[0, :6].tolist()) == [0, 1, 2, 3, 5, 6] and result.index[0, 6] == -1
    kept = nearest(query[rest], reference, k=6, metric=metric, mutual=True)
    assert torch.equal(kept.index, result.index[rest, :6])
    assert torch.equal(kept.accepted, result.accepted[rest]) and not result.accepted[2]


def test_clusters_like_those_of_real_descriptors(device):
    """Many references nearly as near as the nearest: the lists of candidates overflow."""
    generator = torch.Generator().manual_seed(2)
    centres = F.normalize(torch.randn(5, 128, generator=generator), dim=1)
    reference = centres.repeat(400, 1) + 1e-3 * torch.randn(2000, 128, generator=generator)
    query = centres.repeat(8, 1) + 1e-3 * torch.randn(40, 128, generator=generator)
    result = nearest(query.to(device), reference.to(device), k=2, mutual=True)
    expected = nearest_reference(query[None], reference[None], 2, 0, *NONE, True)
    torch.testing.assert_close(result.index.cpu(), expected[1][0])
    torch.testing.assert_close(result.accepted.cpu(), expected[2][0])


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_gradients(metric, device):
    query, reference = (
        torch.randn(2, n, 3, dtype=torch.float64, device=device).requires_grad_() for n in (4, 5)
    )
    function = lambda q, r: nearest(q, r, 2, metric).distance  # noqa: E731
    assert torch.autograd.gradcheck(function, (query, reference))
    assert torch.autograd.gradgradcheck(function, (query, reference))


@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_gradients_of_some_neighbours_at_a_time(metric, device, monkeypatch):
    """Memory of the backward pass does not grow with k: [N, k, D] is computed in parts."""
    shapes = []
    of_pairs = module._of_pairs

    def recorded(query, reference, index):
        shapes.append(index.shape[2])
        return of_pairs(query, reference, index)

    query, reference = (torch.randn(2, n, 3, device=device).requires_grad_() for n in (4, 6))
    distance = nearest(query, reference, 5, metric).distance
    g = torch.randn_like(distance)
    whole = torch.autograd.grad(distance, (query, reference), g, retain_graph=True)
    monkeypatch.setattr(module, "_of_pairs", recorded)
    monkeypatch.setattr(module, "_MAX_ELEMENTS", 2 * query.numel())
    parts = torch.autograd.grad(distance, (query, reference), g)
    assert shapes == [2, 2, 1]
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other)


def test_no_gradient_at_distance_zero(device):
    query = torch.randn(3, 4, device=device, requires_grad=True)
    distance = nearest(query, query.detach().clone(), k=1).distance
    (grad,) = torch.autograd.grad(distance.sum(), query, create_graph=True)
    assert grad.count_nonzero() == 0
    grad.square().sum().backward()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_missing_neighbours_give_no_gradient(metric, device):
    query = torch.randn(3, 4, device=device, requires_grad=True)
    reference = torch.randn(2, 4, device=device, requires_grad=True)
    distance = nearest(query, reference, 3, metric).distance
    distance[:, :2].sum().backward()
    assert query.grad.isfinite().all() and reference.grad.isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_missing_neighbours_spoil_no_gradient(metric, bad, device):
    """First and second derivatives with padding that is not finite and a fully masked query.

    Internally both are paired with the first reference, which is not finite either, at weight 0.
    """
    query, reference = torch.randn(1, 4, 3, device=device), torch.randn(1, 6, 3, device=device)
    query[0, 3], reference[0, 0] = bad, bad
    mask = torch.ones(1, 4, 6, dtype=torch.bool, device=device)
    mask[0, 2] = False

    def grads(q, r, **options):
        q, r = q.clone().requires_grad_(), r.clone().requires_grad_()
        result = nearest(q, r, 1, metric, **options)
        total = result.distance[result.index >= 0].sum()
        first = torch.autograd.grad(total, (q, r), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (q, r))
        return first + second

    lengths = torch.tensor([3], device=device)
    result = grads(query, reference, query_lengths=lengths, mask=mask)
    expected = grads(query[:, :2], reference[:, 1:])
    for grad, exact, kept in zip(result, expected, [(0, 2), (1, 6)] * 2, strict=True):
        torch.testing.assert_close(grad[:, slice(*kept)], exact)
        rest = torch.cat([grad[:, : kept[0]], grad[:, kept[1] :]], 1)
        assert rest.count_nonzero() == 0


@pytest.mark.parametrize("grad", [False, True])
def test_registration(grad, device):
    query, reference = (torch.randn(2, n, 6, device=device).requires_grad_(grad) for n in (5, 7))
    lengths = torch.tensor([3, 7], device=device)
    arguments = (query, reference, 2, 0, None, lengths, None, True)
    torch.library.opcheck(ops.nearest.default, arguments)
    bits = (t.detach().byte() for t in (query, reference))
    torch.library.opcheck(ops.nearest_hamming.default, (*bits, 2, None, None, None, False))


def test_compiles(device):
    query, reference = (torch.randn(n, 6, device=device) for n in (5, 7))
    compiled = torch.compile(lambda q, r: nearest(q, r, 2, ratio=0.9, mutual=True), fullgraph=True)
    for one, other in zip(
        compiled(query, reference),
        nearest(query, reference, 2, ratio=0.9, mutual=True),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_exports(device):
    class Net(torch.nn.Module):
        def forward(self, q, r):
            return nearest(q, r, 2, mutual=True)

    pair = tuple(torch.randn(n, 6, device=device) for n in (5, 7))
    program = torch.export.export(Net(), pair)
    assert torch.equal(program.module()(*pair).index, nearest(*pair, 2).index)


def test_vmap(device):
    query, reference = torch.randn(3, 5, 6, device=device), torch.randn(7, 6, device=device)
    mapped = torch.vmap(lambda q: nearest(q, reference, 2).index)(query)
    each = [nearest(q, reference, 2).index for q in query]
    assert torch.equal(mapped, torch.stack(each))


def test_autocast_changes_nothing(device):
    query, reference = (torch.randn(n, 40, device=device) for n in (50, 70))
    with torch.autocast(device, torch.bfloat16):
        result = nearest(query, reference)
    assert torch.equal(result.distance, nearest(query, reference).distance)


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_autocast_takes_the_wider_of_two_types(metric, device):
    query, reference = (torch.randn(n, 40, device=device) for n in (50, 70))
    with torch.autocast(device, torch.bfloat16):
        result = nearest(query.bfloat16(), reference, metric=metric)
    expected = nearest(query.bfloat16().float(), reference, metric=metric)
    assert torch.equal(result.distance, expected.distance)


def test_meta_device():
    result = nearest(*(torch.empty(2, n, 6, device="meta") for n in (5, 7)), 3, mutual=True)
    assert result.distance.shape == result.index.shape == (2, 5, 3)
    assert result.accepted.shape == (2, 5)


@pytest.mark.parametrize("sizes", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_empty(sizes, device):
    B, N, M, D = sizes
    for metric in ("l2", "cosine", "hamming"):
        dtype = torch.uint8 if metric == "hamming" else torch.float32
        query, reference = (torch.ones(B, n, D, dtype=dtype, device=device) for n in (N, M))
        result = nearest(query, reference, 2, metric, mutual=True)
        assert result.distance.shape == (B, N, 2) and result.accepted.shape == (B, N)
        if M == 0:
            assert (result.index == -1).all() and not result.accepted.any()
        if D == 0 and M:
            assert result.index.tolist() == [[[0, 1]] * N] * B  # all distances are equal


@pytest.mark.parametrize("sizes", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_gradients_of_nothing(metric, sizes, device):
    B, N, M, D = sizes
    query, reference = (torch.ones(B, n, D, device=device).requires_grad_() for n in (N, M))
    nearest(query, reference, 2, metric).distance.sum().backward()
    assert query.grad.shape == (B, N, D) and reference.grad.shape == (B, M, D)
    assert M or query.grad.count_nonzero() == 0


def test_not_contiguous(device):
    query, reference = torch.randn(6, 40, device=device), torch.randn(6, 90, device=device)
    result = nearest(query.T, reference.T, 2)
    expected = nearest(query.T.contiguous(), reference.T.contiguous(), 2)
    assert torch.equal(result.index, expected.index)


def test_threads_and_repetition_do_not_change_the_bits(same_with_any_threads):
    query, reference = torch.randn(1, 3000, 24), torch.randn(1, 700, 24)
    bits = [(t[..., :16] * 50).byte() for t in (query, reference)]
    same_with_any_threads(lambda: ops.nearest(query, reference, 3, 0, *NONE, True))
    same_with_any_threads(lambda: ops.nearest_hamming(*bits, 3, *NONE, True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_threads_that_take_whole_items_change_no_bit(dtype, same_with_any_threads):
    query, reference = torch.randn(7, 90, 24).to(dtype), torch.randn(7, 33, 24).to(dtype)
    lengths = torch.tensor([90, 0, 5, 90, 17, 90, 1]), torch.tensor([33, 9, 0, 33, 33, 2, 1])
    arguments = query, reference, 3, 0, *lengths, None, True
    found = same_with_any_threads(lambda: ops.nearest(*arguments))
    expected = nearest_reference(*arguments)
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[2], expected[2])


def test_gradients_of_few_references_repeat(same_with_any_threads):
    """Many queries share a reference, and must be added to its gradient in a fixed order."""
    query, reference = torch.randn(4000, 64), torch.randn(4, 64, requires_grad=True)

    def grads():
        return torch.autograd.grad(nearest(query, reference).distance.sum(), reference)

    for _ in range(5):
        same_with_any_threads(grads)


def test_memory_stays_far_below_all_pairs():
    """20 000 x 20 000 distances would be 1.6 GB."""
    from flowmatch.devices import PeakMemory

    query, reference = torch.randn(20000, 16), torch.randn(20000, 16)
    peak = PeakMemory(torch.device("cpu"))
    nearest(query, reference, 2, mutual=True)
    assert peak.megabytes() < 100


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_geometry(data):
    """Integers, so that there are ties and all results are exact."""
    case = tuple(data.draw(st.integers(1, most)) for most in (2, 40, 70, 20, 9))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
    query, reference = (
        torch.randint(-2, 3, (case[0], n, case[3]), generator=generator).float() for n in case[1:3]
    )
    metric = data.draw(st.sampled_from([0, 1]))
    result = ops.nearest(query, reference, case[4], metric, *NONE, True)
    expected = nearest_reference(query, reference, case[4], metric, *NONE, True)
    assert torch.equal(result[1], expected[1]) and torch.equal(result[2], expected[2])
    torch.testing.assert_close(result[0], expected[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": torch.zeros(7, 5)}, r"got \(5, 6\) and \(7, 5\)"),
        ({"reference": torch.zeros(7, 6).double()}, "same float type, got torch.float32 and"),
        ({"metric": "hamming"}, r"uint8 \(packed bits\), got torch.float32"),
        ({"metric": "l1"}, "one of l2, cosine, dot, hamming, got 'l1'"),
        ({"reference": torch.zeros(7, 6, device="meta")}, "same device, got cpu and meta"),
        ({"k": 0}, "k must be positive, got 0"),
        ({"k": 2**31}, r"k must be at most 1024 or the number of references, 7, got 2147483648"),
        ({"ratio": 1.5}, "0 < ratio <= 1, got 'l2' and 1.5"),
        ({"ratio": 0.5, "metric": "dot"}, "ratio needs a distance"),
        ({"query_lengths": torch.tensor([3])}, r"query_lengths must be integers \[B\]"),
        ({"mask": torch.ones(5, 6, dtype=torch.bool)}, r"mask must be bool \(5, 7\) on cpu, got"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        nearest(**{"query": torch.zeros(5, 6), "reference": torch.zeros(7, 6), **change})


def test_kernel_protects_memory():
    q = torch.zeros(1, 4, 4)
    with pytest.raises(RuntimeError, match=r"lengths must be in \[0, 4\], got 5"):
        ops.nearest(q, q, 1, 0, None, torch.tensor([5]), None, False)
    with pytest.raises(RuntimeError, match="the same type and device"):
        ops.nearest(q, q.double(), 1, 0, *NONE, False)
    with pytest.raises(RuntimeError, match="mask must be contiguous bool"):
        ops.nearest_hamming(q.byte(), q.byte(), 1, None, None, torch.ones(1, 4, 3).bool(), False)


def test_agrees_with_numpy_on_bits():
    """Hamming distances from numpy's unpacked bits."""
    query, reference = (x.numpy() for x in strings((1, 30, 40, 5, 1), "cpu"))
    bits = [np.unpackbits(x[0], axis=1).astype(int) for x in (query, reference)]
    distance = np.abs(bits[0][:, None] - bits[1][None]).sum(-1)
    result = nearest(torch.from_numpy(query[0]), torch.from_numpy(reference[0]), 1, "hamming")
    assert (result.distance[:, 0].numpy() == distance.min(1)).all()
    assert (result.index[:, 0].numpy() == distance.argmin(1)).all()
