"""Measurement of cases, detection of wrong results, and the cases of all ops."""

import os
import sys
import time

import pytest
import torch

from flowmatch.bench import OPS, Case, Implementation, Row, measure_all, measure_ceilings, shape_of
from flowmatch.bench.measure import _system_seconds


def square_case(**settings):
    x = torch.rand(3, 4)
    implementations = (
        Implementation("flowmatch", lambda x: x * x),
        Implementation("torch: power", lambda x: x**2),
        Implementation("wrong", lambda x: x * x + 0.01),
    )
    return Case("square", "tiny", (x,), 12.0, lambda x: x * x, implementations, **settings)


def test_rows_describe_the_measurement():
    (rows,) = measure_all([square_case()], 100.0, rounds=3)
    assert [row.implementation for row in rows] == ["flowmatch", "torch: power", "wrong"] * 2
    assert [row.passes for row in rows] == ["forward"] * 3 + ["forward+backward"] * 3
    assert [row.agrees for row in rows] == [True, True, False] * 2
    for row in rows:
        assert row.rounds == 3
        flops = 12 if row.passes == "forward" else 36
        assert row.gflops == pytest.approx(1e-6 * flops / row.median_ms)
        assert row.ceiling_fraction == pytest.approx(row.gflops / 100)
    assert rows[0].intensity == pytest.approx(12 / (2 * 12 * 4))  # one input, one output


@pytest.mark.skipif(sys.platform == "win32", reason="no such times there")
def test_rows_have_the_time_of_the_system(monkeypatch):
    system = 5.0

    def busy(x):
        nonlocal system
        system += 0.25
        return x.clone()

    implementations = (Implementation("flowmatch", busy), Implementation("idle", lambda x: x))
    case = Case("copy", "", (torch.zeros(3),), 0.0, torch.clone, implementations, backward=False)
    monkeypatch.setattr("flowmatch.bench.measure._system_seconds", lambda: system)
    ((row, idle),) = measure_all([case], 100.0, rounds=3)
    assert (row.system_ms, idle.system_ms) == (250.0, 0.0)


@pytest.mark.skipif(sys.platform == "win32", reason="no such times there")
def test_random_bytes_are_the_systems_work():
    before, end = _system_seconds(), time.monotonic() + 20
    while _system_seconds() == before and time.monotonic() < end:  # some systems count in ticks
        os.urandom(2**20)
    assert _system_seconds() > before


def test_a_wrong_gradient_disagrees():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * x

        @staticmethod
        def backward(ctx, g):
            return g

    case = square_case()
    implementations = (Implementation("flowmatch", Wrong.apply),)
    case = Case("square", "tiny", case.inputs, 12.0, case.truth, implementations)
    (rows,) = measure_all([case], 100.0, rounds=1)
    assert [row.agrees for row in rows] == [True, False]


def test_truth_gets_the_heads_of_the_inputs():
    shapes = []

    def truth(a, b):
        shapes.append((a.shape, b.shape, a.dtype))
        return a @ b

    a, b = torch.rand(9, 4), torch.rand(4, 5)
    implementations = (Implementation("flowmatch", torch.matmul),)
    case = Case(
        "product", "tiny", (a, b), 0.0, truth, implementations, heads=(2, None), backward=False
    )
    (rows,) = measure_all([case], 100.0, rounds=1)
    assert shapes == [((2, 4), (4, 5), torch.float64)]
    assert [row.agrees for row in rows] == [True]
    assert rows[0].gflops is None and rows[0].ceiling_fraction is None


def test_rows_survive_json():
    (rows,) = measure_all([square_case(backward=False)], 100.0, rounds=1)
    assert [Row.from_json(row.to_json()) for row in rows] == rows


def test_ceilings():
    ceilings = measure_ceilings(torch.device("cpu"), size=64)
    assert ceilings["gflops"] > 0 and ceilings["gbytes"] > 0


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d,e,f", "1,2,3,4,5,-6", ""])
def test_refuses_shapes(text):
    with pytest.raises(ValueError, match="the shape of correlation is B,C,H,W,radius,stride"):
        shape_of("correlation", text)


# Tiny shapes, for which all implementations of all ops are run and compared.
TINY = {
    "correlation": [(1, 8, 12, 16, 2, 1)],
    "correlation_lookup": [(1, 8, 16, 20, 2, 3, 1)],
    "nearest": [(0, 1, 60, 70, 16), (1, 1, 60, 70, 16), (2, 1, 60, 70, 32)],
    "pairwise_distance": [(2, 20, 30, 16)],
    "distance_field": [(2000, 3, 20, 8)],
    "splat": [(2, 3, 12, 17)],
}


@pytest.mark.parametrize("op", OPS)
def test_all_implementations_agree(op):
    shapes = {str(shape): shape for shape in TINY[op]}
    cases = OPS[op].cases(torch.device("cpu"), torch.float32, shapes=shapes)
    for rows in measure_all(cases, 100.0, rounds=1):
        assert [row.implementation for row in rows if not row.agrees] == []
        assert rows[0].implementation == "flowmatch"


@pytest.mark.parametrize(
    ("op", "text"),
    [("correlation", "1,4,8,8,1,0"), ("nearest", "0,1,0,8,4"), ("pairwise_distance", "1,2,3,0")],
)
def test_shapes_without_a_size(op, text):
    with pytest.raises(ValueError, match=f"the shape of {op} is .* at least 1, got"):
        shape_of(op, text)
    assert shape_of("correlation", "1,4,8,8,0,1")[4] == 0
