"""csrc/cuda/pairwise_distance.cu against distances in float64."""

import numpy as np
import pytest

from .arrays import TYPES, assert_close, to_device, to_float64

CASES = [  # B, N, M, D; tiles of 64
    (1, 1, 1, 1),
    (2, 20, 50, 7),
    (1, 64, 64, 16),  # exactly one tile and one slice of dimensions
    (1, 65, 129, 17),  # one more along each dimension
    (3, 5, 2, 16),
]


@pytest.mark.parametrize("metric", [0, 1], ids=["l2", "dot"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_pairwise_distance(emulated, case, dtype, metric):
    random = np.random.default_rng(0)
    B, N, M, D = case
    x, y = (to_device(random.standard_normal((B, n, D)), dtype) for n in (N, M))
    a, b = to_float64(x)[:, :, None], to_float64(y)[:, None]
    expected = (a * b).sum(-1) if metric else np.sqrt(((a - b) ** 2).sum(-1))
    for seed, guard in enumerate(["after", "before"]):
        emulated.set(seed=seed, guard=guard)
        out = np.zeros((B, N, M), x.dtype)
        emulated.pairwise_distance(x, y, out, metric)
        assert_close(out, expected, dtype)
