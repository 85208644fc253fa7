"""Checks of arguments that the ops have in common, and of kernels that are called directly."""

import re
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import flowmatch
from flowmatch.ops import (
    Correlation,
    _types,
    correlation,
    correlation_lookup,
    distance_field,
    nearest,
    pairwise_distance,
    splat,
)
from flowmatch.ops.nearest_reference import nearest_hamming_reference, nearest_reference

ops = torch.ops.flowmatch


def images(dtype=torch.float32, device="cpu", batch=2):
    return tuple(torch.randn(2, batch, 3, 4, 5, device=device).to(dtype))


def vectors(dtype=torch.float32, device="cpu"):
    return tuple(torch.randn(2, 4, 6, device=device).to(dtype))


CALLS = {
    "correlation": lambda a, b: correlation(a, b, 1, 1),
    "layer": Correlation(subtract=True),
    "lookup": lambda a, b: correlation_lookup(a, b, torch.zeros(len(a), 2, 4, 5, device=a.device)),
    "nearest": lambda a, b: nearest(a, b).distance,
    "pairwise": pairwise_distance,
    "splat": lambda a, b: splat(a, torch.ones(len(a), 2, 4, 5, device=a.device)),
    "field": lambda a, b: distance_field(a[:, :3], b[:, :3]),
}


def inputs(name, *arguments):
    return vectors(*arguments) if name in ("nearest", "pairwise", "field") else images(*arguments)


@pytest.mark.parametrize("name", CALLS)
def test_float8_is_refused_by_name(name, device):
    with pytest.raises(ValueError, match="float8_e4m3fn"):
        CALLS[name](*inputs(name, torch.float8_e4m3fn, device))


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"field"}))
def test_sparse_tensors_are_refused_by_name(name):
    with pytest.raises(ValueError, match="must be dense tensors, got one of layout torch.sparse"):
        CALLS[name](*(t.to_sparse() for t in inputs(name)))


@pytest.mark.parametrize("name", ["correlation", "nearest"])
def test_mkldnn_tensors_are_refused_by_name(name):
    with pytest.raises(ValueError, match="must be dense tensors, got one of layout torch._mkldnn"):
        CALLS[name](*(t.to_mkldnn() for t in inputs(name)))


def lookups(shape=(1, 2, 4, 5), dtype=torch.float32, radius=1):
    f = torch.zeros(1, 4, 5, 3)
    return (f, f, torch.zeros(shape, dtype=dtype), 1.0, 1.0, radius, 1)


f, v, bits = torch.zeros(1, 3, 4, 5), torch.zeros(1, 4, 6), torch.zeros(1, 4, 6).byte()
fields = (torch.zeros(5, 3), torch.zeros(5).long(), torch.zeros(2, 3), torch.zeros(2, 3, 3))
flow = torch.zeros(1, 2, 4, 5)
BAD = [  # op, arguments, error of the compiled kernel
    ("correlation", (f[0], f[0], 1, 1), "must be [B, C, H, W]"),
    ("correlation", (f, f[:, :2], 1, 1), "must have the same shape"),
    ("correlation", (f, f.double(), 1, 1), "must have the same type and device"),
    ("correlation", (f.int(), f.int(), 1, 1), "float16, bfloat16, float32 or float64 is needed"),
    ("correlation", (f, f, -1, 1), "radius must be in [0, 2^15)"),
    ("correlation", (f, f, (1, -1), 1), "radius must be in [0, 2^15)"),
    ("correlation", (f, f, 1, 1, False, (0, 2**31)), "offset must be in (-2^31, 2^31)"),
    ("correlation_grad", (f, f, 1, 1, True), "g must be [B, displacements, H, W]"),
    ("correlation_grad", (f[:, :1].double(), f, 0, 1, True), "the same type and device"),
    ("correlation_lookup", lookups((1, 2, 4, 4)), "coords must be [B, 2, H, W]"),
    ("correlation_lookup", lookups(dtype=torch.float64), "coords must be [B, 2, H, W]"),
    ("correlation_lookup", lookups(radius=1024), "radii must be in [0, 2^10)"),
    ("correlation_lookup_grad", (f, *lookups()), "g must be [B, D, H, W]"),
    ("nearest", (v, v[:, :, 1:], 1, 0, None, None, None, False), "[B, N, D] and [B, M, D]"),
    ("nearest", (v, v.double(), 1, 0, None, None, None, False), "the same type and device"),
    ("nearest", (v, v, 0, 0, None, None, None, False), "k must be positive"),
    ("nearest", (v, v, 1, 2, None, None, None, False), "metric must be 0 (l2) or 1 (dot)"),
    ("nearest", (bits, bits, 1, 0, None, None, None, False), "float32 or float64 is needed"),
    ("nearest", (v, v, 1, 0, torch.ones(2).long(), None, None, False), "contiguous int64 [B]"),
    ("nearest", (v, v, 1, 0, None, torch.ones(1).int(), None, False), "contiguous int64 [B]"),
    ("nearest", (v, v, 1, 0, None, None, v > 0, False), "mask must be contiguous bool [B, N, M]"),
    ("nearest_hamming", (v, v, 1, None, None, None, False), "must be uint8"),
    ("pairwise_distance", (v, v[:, :, 1:], 0), "of the same type and device"),
    ("pairwise_distance", (bits, bits, 0), "float16, bfloat16, float32 or float64 is needed"),
    ("pairwise_distance", (v, v, 2), "metric must be 0 (l2) or 1 (dot)"),
    ("pairwise_distance_weight", (v, v[0]), "must have the same shape, type and device"),
    ("splat", (f, f), "must be [B, C, H, W] and [B, 2, H, W]"),
    ("splat", (f, flow.double()), "must have the same type and device"),
    ("splat", (f.half(), flow.half()), "float32 or float64 is needed"),
    ("splat_grad", (f[:, :1], f, flow), "g must have the shape, type and device of image"),
    ("distance_field", (*fields, [1, 1, 1], [0.0] * 3 + [1.0], 0, 1.0, 1.0), "is out of range"),
    ("distance_field", (*fields, [1, 1], [0.0] * 3 + [1.0], 3, 1.0, 1.0), "is out of range"),
    (
        "distance_field",
        (*fields[:3], fields[3].double(), [1, 1, 1], [0.0] * 3 + [1.0], 3, 1.0, 1.0),
        "all tensors must have the same type and device",
    ),
]


@pytest.mark.parametrize(("op", "arguments", "message"), BAD, ids=[f"{b[0]}-{b[2]}" for b in BAD])
def test_fake_tensors_are_checked_as_real_ones(op, arguments, message):
    """Errors of export and compile are those of a direct call."""
    call = getattr(ops, op)
    with pytest.raises(RuntimeError) as real:
        call(*arguments)
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments]
    with mode, pytest.raises(RuntimeError) as fake:
        call(*fakes)
    assert message in str(real.value) and message in str(fake.value)


@pytest.mark.parametrize("op", flowmatch.ops.OPS)
def test_ops_are_tagged_as_compliant(op):
    assert torch.Tag.pt2_compliant_tag in getattr(ops, op).default.tags


def test_messages_name_no_folder_of_the_build():
    """Only files relative to the sources, as an unsupported type would show."""
    library = next(Path(flowmatch.__file__).parent.glob("_C*.so")).read_bytes()
    assert b"csrc/correlation.cpp" in library
    assert not re.search(rb"/[\w./-]*/csrc/\w+\.", library)


class NoFloat64(TorchDispatchMode):
    """Refuse float64, as devices do that do not have it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else [out]:
            assert not isinstance(t, torch.Tensor) or t.dtype != torch.float64, func
        return out


def test_references_run_without_float64(monkeypatch):
    monkeypatch.setattr(_types, "WITHOUT_FLOAT64", {"cpu"})
    q, r = torch.randn(1, 5, 6), torch.randn(1, 7, 6)
    options = (None, None, None, True)
    expected = ops.nearest(q, r, 2, 0, *options)
    with NoFloat64():
        result = nearest_reference(q, r, 2, 0, *options)
        bytes_ = [(t * 50).byte() for t in (q, r)]
        bitwise = nearest_hamming_reference(*bytes_, 2, *options)
        distance_field(r[0, :, :3], q[0, :, :3], size=3, voxel=0.2)
        nearest(q, r, 2, "cosine"), pairwise_distance(q, r, "cosine")
    assert torch.equal(result[1], expected[1])
    for one, other in zip(bitwise, ops.nearest_hamming(*bytes_, 2, *options), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["correlation", "lookup", "nearest", "pairwise", "splat"])
def test_vmap_over_nothing(name, device):
    """As torch.matmul does, ops return nothing of the right shape."""
    one = inputs(name, torch.float32, device)
    result, expected = (
        torch.vmap(CALLS[name])(*(torch.stack([t] * n) if n else t[None][:0] for t in one))
        for n in (0, 1)
    )
    assert result.shape == (0, *expected.shape[1:])
