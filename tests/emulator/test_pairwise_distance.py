"""csrc/cuda/pairwise_distance.cu against distances in float64."""

import numpy as np
import pytest

from .arrays import TYPES, assert_close, to_device, to_float64

CASES = [  # B, N, M, D; tiles of 64 on CUDA cores, of 128 on tensor cores
    (1, 1, 1, 1),
    (2, 20, 50, 7),
    (1, 64, 64, 16),  # exactly one tile and one slice of dimensions
    (1, 65, 129, 17),  # one more along each dimension
    (3, 5, 2, 16),
    (1, 3, 8, 0),  # no dimensions
    (2, 129, 132, 40),  # more than a tile of tensor cores; rows that are written four at once
]


@pytest.mark.parametrize("metric", [0, 1], ids=["l2", "dot"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("major", [7, 8], ids=["cores", "tensor-cores"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_pairwise_distance(emulated, case, dtype, metric, major):
    random = np.random.default_rng(0)
    B, N, M, D = case
    x, y = (to_device(random.standard_normal((B, n, D)), dtype) for n in (N, M))
    a, b = to_float64(x)[:, :, None], to_float64(y)[:, None]
    expected = (a * b).sum(-1) if metric else np.sqrt(((a - b) ** 2).sum(-1))
    for seed, guard in enumerate(["after", "before"]):
        emulated.set(seed=seed, guard=guard, major=major)
        out = np.zeros((B, N, M), x.dtype)
        emulated.pairwise_distance(x, y, out, metric)
        assert_close(out, expected, dtype)


@pytest.mark.parametrize("major", [7, 8], ids=["cores", "tensor-cores"])
@pytest.mark.parametrize("dtype", TYPES)
def test_distances_that_cancel(emulated, dtype, major):
    """Vectors that are equal, close together far from zero, or too long for their squares."""
    random = np.random.default_rng(0)
    x = 30 + random.standard_normal((1, 6, 24))
    x[0, 1] = x[0, 0]
    x[0, 4:, :20] = {"float64": 1e200, "float16": 200}.get(dtype, 1e25)
    x[0, 4] /= 2
    x = to_device(x, dtype)
    wide = to_float64(x).astype(np.longdouble)  # squares do not overflow
    expected = np.sqrt(((wide[:, :, None] - wide[:, None]) ** 2).sum(-1))
    emulated.set(major=major)
    out = np.zeros((1, 6, 6), x.dtype)
    emulated.pairwise_distance(x, x, out, 0)
    close = {"float64": 1e-12, "float32": 5e-6, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
    np.testing.assert_allclose(to_float64(out), expected.astype(np.float64), close)
