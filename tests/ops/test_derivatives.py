"""Forward mode, `torch.func` and higher derivatives of all ops, against plain PyTorch."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F

from flowmatch.ops import (
    Correlation,
    correlation,
    correlation_lookup,
    correlation_lookup_1d,
    correlation_pyramid,
    distance_field,
    nearest,
    pairwise_distance,
    splat,
    warp,
)
from flowmatch.ops.absolute_difference import absolute_difference
from flowmatch.ops.correlation_lookup_reference import correlation_lookup_reference
from flowmatch.ops.correlation_reference import correlation_reference
from flowmatch.ops.splat import splat_reference


def lookup(a, b, c):
    return correlation_lookup(a, correlation_pyramid(b, 2), c, 1)


def plain_lookup(a, b, c):
    levels = (f.permute(0, 2, 3, 1) for f in (a, *correlation_pyramid(b, 2)))
    first, *others = levels
    return torch.cat(
        [
            correlation_lookup_reference(first, f, c, 0.5**n, 0.5**n, 1, 1)
            for n, f in enumerate(others)
        ],
        1,
    )


def plain_stereo(a, b, c):
    rows = torch.arange(2.0, dtype=c.dtype, device=c.device)[:, None].expand_as(c)
    first, second = (f.permute(0, 2, 3, 1) for f in (a, b))
    return correlation_lookup_reference(first, second, torch.cat([c, rows], 1), 1.0, 1.0, 0, 1)


def plain_layer(a, b):
    """Mean absolute differences of 3 x 3 displacements and 3 x 3 patches."""
    a, b = F.pad(a, (2,) * 4), F.pad(b, (3,) * 4)
    H, W = a.shape[2:]
    planes = [(a - b[..., y : y + H, x : x + W]).abs().mean(1) for y in range(3) for x in range(3)]
    return F.avg_pool2d(torch.stack(planes, 1)[..., 1:-1, 1:-1], 3, 1)


def plain_splat(image, weight, flow):
    """Softmax splatting; pixels that nothing lands on are 0."""
    factor = weight.exp()
    sums = splat_reference(torch.cat([image * factor, factor], 1), flow)
    norm = sums[:, -1:]
    return torch.where(norm > 0, sums[:, :-1] / torch.where(norm > 0, norm, 1), 0)


def plain_distance(x, y, metric):
    if metric == "cosine":
        x, y = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
    if metric == "l2":
        return (x[:, None] - y).square().sum(-1).sqrt()
    product = x @ y.T
    return product if metric == "dot" else 1 - product


def plain_nearest(x, y, metric):
    values = plain_distance(x, y, metric)
    return values.topk(2, largest=metric == "dot").values


SHAPES = {  # shapes of the inputs; the third ones are coordinates or flows
    "images": ((1, 2, 2, 3), (1, 2, 2, 3)),
    "lookup": ((1, 2, 2, 3), (1, 2, 2, 3), (1, 2, 2, 3)),
    "stereo": ((1, 2, 2, 3), (1, 2, 2, 3), (1, 1, 2, 3)),
    "splat": ((1, 2, 2, 3), (1, 1, 2, 3), (1, 2, 2, 3)),
    "vectors": ((3, 3), (4, 3)),
}
CASES = {  # op, the same in plain PyTorch, inputs
    "correlation": (
        lambda a, b: correlation(a, b, 1, 1),
        lambda a, b: correlation_reference(a, b, 1, 1),
        "images",
    ),
    "layer": (
        Correlation(kernel_size=3, pad=2, max_displacement=1, stride2=1, subtract=True),
        plain_layer,
        "images",
    ),
    "lookup": (lookup, plain_lookup, "lookup"),
    "stereo": (lambda a, b, c: correlation_lookup_1d(a, b, c, 1), plain_stereo, "stereo"),
    "splat": (lambda i, w, f: splat(i, f, w, "softmax"), plain_splat, "splat"),
}
for _metric in ("l2", "cosine", "dot"):
    CASES[f"pairwise {_metric}"] = (
        lambda x, y, m=_metric: pairwise_distance(x, y, m),
        lambda x, y, m=_metric: plain_distance(x, y, m),
        "vectors",
    )
    CASES[f"nearest {_metric}"] = (
        lambda x, y, m=_metric: nearest(x, y, 2, m).distance,
        lambda x, y, m=_metric: plain_nearest(x, y, m),
        "vectors",
    )


@pytest.fixture(params=CASES)
def case(request, device):
    op, plain, kind = CASES[request.param]
    inputs = [torch.randn(s, dtype=torch.float64, device=device) for s in SHAPES[kind]]
    if len(inputs) == 3:  # coordinates inside and outside the image, between pixels
        inputs[2] = 4 * torch.rand_like(inputs[2]) - 0.7
    return op, plain, tuple(inputs)


def total(function):
    """A nonlinear function of all results, with one value."""
    return lambda *inputs: (function(*inputs) * 1.3).sin().sum()


def check(result, expected):
    torch.testing.assert_close(result, expected, rtol=1e-8, atol=1e-9)


def test_forward_mode(case):
    op, plain, inputs = case
    tangents = tuple(torch.randn_like(t) for t in inputs)
    result = torch.func.jvp(op, inputs, tangents)
    check(result, torch.func.jvp(plain, inputs, tangents))
    assert result[1].abs().sum() > 0
    for n, tangent in enumerate(tangents):  # one input at a time
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(t, tangent) if n == i else t for i, t in enumerate(inputs)
            ]
            along = forward_ad.unpack_dual(op(*duals)).tangent
            check(along, forward_ad.unpack_dual(plain(*duals)).tangent)


def test_gradients_of_all_modes(case):
    op, _, inputs = case
    inputs = tuple(t.requires_grad_() for t in inputs)
    assert torch.autograd.gradcheck(
        op, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(
        op, inputs, check_fwd_over_rev=True, check_batched_grad=True, atol=1e-4
    )


@pytest.mark.parametrize("transform", ["grad", "jacrev", "jacfwd", "hessian"])
def test_transforms(case, transform):
    op, plain, inputs = case
    numbers = tuple(range(len(inputs)))
    transform = getattr(torch.func, transform)
    if transform is torch.func.jacrev or transform is torch.func.jacfwd:
        check(transform(op, numbers)(*inputs), transform(plain, numbers)(*inputs))
    else:
        check(transform(total(op), numbers)(*inputs), transform(total(plain), numbers)(*inputs))


def test_transforms_of_transforms(case):
    """Second derivatives by both modes in all orders, and the third."""
    op, plain, inputs = (total(case[0]), total(case[1]), case[2])
    reverse, forward = torch.func.jacrev, torch.func.jacfwd
    for outer, inner in ((reverse, reverse), (forward, forward), (reverse, forward)):
        check(outer(inner(op))(*inputs), outer(inner(plain))(*inputs))
    check(forward(forward(reverse(op)))(*inputs), forward(forward(reverse(plain)))(*inputs))


def test_vjp_and_mapped_gradients(case):
    op, plain, inputs = case
    value, pull = torch.func.vjp(op, *inputs)
    weights = torch.randn_like(value)
    check(pull(weights), torch.func.vjp(plain, *inputs)[1](weights))
    batches = tuple(torch.stack([t, t + 0.01, t - 0.01]) for t in inputs)
    per_sample = torch.vmap(torch.func.grad(total(op)))(*batches)
    check(per_sample, torch.vmap(torch.func.grad(total(plain)))(*batches))
    check(
        torch.vmap(torch.func.grad(total(op)), (0,) + (None,) * (len(inputs) - 1))(
            batches[0], *inputs[1:]
        ),
        torch.stack([torch.func.grad(total(op))(t, *inputs[1:]) for t in batches[0]]),
    )


def test_gradients_in_batches(case):
    op, _, inputs = case
    inputs = tuple(t.requires_grad_() for t in inputs)
    out = op(*inputs)
    weights = torch.randn(3, *out.shape, dtype=out.dtype, device=out.device)
    result = torch.autograd.grad(out, inputs, weights, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(out, inputs, w, retain_graph=True) for w in weights]
    check(result, tuple(torch.stack(grads) for grads in zip(*each, strict=True)))


def compiled(function, *inputs):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True)(*inputs)


@pytest.mark.filterwarnings("ignore:.*_prims_common.check:FutureWarning")  # torch's own
@pytest.mark.parametrize(
    "name", ["correlation", "lookup", "pairwise l2", "nearest l2", "layer", "splat"]
)
def test_transforms_compile(name, device):
    op, _, kind = CASES[name]
    inputs = tuple(0.3 + torch.rand(s, device=device) for s in SHAPES[kind])
    tangents = tuple(torch.randn_like(t) for t in inputs)

    def tangent(*both):
        half = len(both) // 2
        return torch.func.jvp(op, both[:half], both[half:])[1]

    result = compiled(tangent, *inputs, *tangents)
    torch.testing.assert_close(result, tangent(*inputs, *tangents), rtol=1e-4, atol=1e-5)
    function = torch.func.jacfwd(total(op))
    result = compiled(function, *inputs)
    torch.testing.assert_close(result, function(*inputs), rtol=1e-4, atol=1e-5)
    function = torch.vmap(torch.func.grad(total(op)))
    batches = tuple(torch.stack([t, t + 0.01]) for t in inputs)
    result = compiled(function, *batches)
    torch.testing.assert_close(result, function(*batches), rtol=1e-4, atol=1e-5)


def test_tangents_of_half_types(device):
    for dtype, tolerance in ((torch.float16, 2e-2), (torch.bfloat16, 1e-1)):
        for op, _, kind in CASES.values():
            inputs = tuple(torch.randn(s, device=device).to(dtype) for s in SHAPES[kind])
            tangents = tuple(torch.randn_like(t) for t in inputs)
            value, along = torch.func.jvp(op, inputs, tangents)
            assert along.dtype == value.dtype
            exact = torch.func.jvp(
                op, tuple(t.double() for t in inputs), tuple(t.double() for t in tangents)
            )[1]
            close = torch.isclose(along.double(), exact, rtol=tolerance, atol=10 * tolerance)
            assert close.double().mean() > 0.8  # the choice of neighbours may differ


def test_derivatives_repeat_bit_by_bit(case):
    op, _, inputs = case
    tangents = tuple(torch.randn_like(t) for t in inputs)
    functions = (lambda *t: torch.func.jvp(op, t, tangents)[1], torch.func.hessian(total(op)))
    for function in functions:
        assert torch.equal(function(*inputs), function(*inputs))


def test_no_derivative_where_pairs_coincide(device):
    """At distance 0 tangents are 0, too, and not NaN."""
    x = torch.randn(4, 3, dtype=torch.float64, device=device)
    for function in (
        lambda a: pairwise_distance(a, x).diagonal(),
        lambda a: nearest(a, x).distance,
    ):
        assert torch.func.jvp(function, (x,), (torch.ones_like(x),))[1].count_nonzero() == 0
        assert torch.func.jacfwd(torch.func.jacrev(function))(x).count_nonzero() == 0


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_missing_neighbours_have_no_tangent(metric, device):
    query, reference = torch.randn(1, 3, 4, device=device), torch.randn(1, 2, 4, device=device)
    query[0, 2], reference[0, 0] = float("nan"), float("inf")
    function = lambda q, r: nearest(q, r, 2, metric).distance  # noqa: E731
    along = torch.func.jvp(function, (query, reference), (query.nan_to_num(), reference))[1]
    index = nearest(query, reference, 2, metric).index
    assert along[index >= 0].isfinite().all()
    if metric != "cosine":  # the distance of a missing neighbour is computed from inf
        assert along[index < 0].count_nonzero() == 0


def test_distance_field_refuses_forward_mode(device):
    points, centres = torch.rand(5, 3, device=device), torch.rand(2, 3, device=device)
    function = lambda p, c: distance_field(p, c, size=3)  # noqa: E731
    with pytest.raises(NotImplementedError, match="distance_field is not differentiable"):
        torch.func.jvp(function, (points, centres), (points, centres))
    assert not function(points.requires_grad_(), centres).requires_grad


def test_warp_refuses_forward_mode(device):
    image, flow = torch.rand(1, 2, 4, 5, device=device), torch.rand(1, 2, 4, 5, device=device)
    with pytest.raises(NotImplementedError, match="forward AD"):
        torch.func.jvp(warp, (image, flow), (image, flow))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_registration_of_absolute_differences(dtype, device):
    ops = torch.ops.flowmatch
    f1, f2 = (t.requires_grad_() for t in torch.randn(2, 2, 3, 4, 5, dtype=dtype, device=device))
    g = torch.randn(2, 9, 4, 5, dtype=dtype, device=device, requires_grad=True)
    torch.library.opcheck(ops.absolute_difference.default, (f1, f2, 1, 2))
    torch.library.opcheck(ops.absolute_difference_grad.default, (g, f1, f2, 1, 2))
    torch.library.opcheck(ops.absolute_difference_tangent.default, (f2, f1, f1, f2, 1, 2))


def test_absolute_differences_save_only_their_inputs(device):
    """Not the differences of all displacements: 441 times the features for FlowNetC."""
    f1, f2 = (t.requires_grad_() for t in torch.randn(2, 1, 4, 6, 7, device=device))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()), lambda t: t):
        Correlation(subtract=True)(f1, f2)
    assert sum(saved) <= 2 * f1.numel()
    assert absolute_difference(f1, f2, 1, 1).requires_grad
