"""csrc/cuda/nearest*.cu against all distances in float64."""

import numpy as np
import pytest

from .arrays import TYPES, to_device, to_float64

CASES = [  # B, N, M, D, k; tiles of 64 on CUDA cores, of 128 on tensor cores
    (1, 1, 1, 1, 1),
    (2, 20, 50, 7, 3),
    (1, 64, 64, 16, 2),  # exactly one tile and one slice of dimensions
    (1, 65, 129, 17, 2),  # one more along each dimension
    (3, 5, 2, 16, 4),  # fewer references than k
    (1, 130, 70, 3, 40),
    (2, 3, 5, 0, 2),  # no dimensions: all distances are equal
    (2, 3, 0, 4, 2),  # no references
]
LARGER = [
    (1, 129, 257, 40, 3),  # several complete and partial slices
    (1, 128, 300, 64, 1),
    (1, 3, 2100, 8, 4),  # references in two parts, whose lists are merged
]


def vectors(case, dtype):
    """Integers, so that values are exact and there are ties."""
    random = np.random.default_rng(0)
    B, N, M, D, _ = case
    return [to_device(random.integers(-3, 4, (B, n, D)).astype(float), dtype) for n in (N, M)]


def options(kind, case):
    random = np.random.default_rng(1)
    B, N, M, *_ = case
    if kind == "lengths":
        return [random.integers(0, n + 1, B) for n in (N, M)] + [None]
    return [None, None, random.random((B, N, M)) < 0.6 if kind == "mask" else None]


def select(values, limits, k):
    """The k smallest of `values` [B, N, M], inf where missing, and the mutual test."""
    B, N, M = values.shape
    query_lengths, reference_lengths, mask = limits
    values = values.copy()
    for b in range(B):
        if query_lengths is not None:
            values[b, query_lengths[b] :] = np.inf
            values[b, :, reference_lengths[b] :] = np.inf
    if mask is not None:
        values[~mask] = np.inf
    order = np.argsort(values, -1, kind="stable")[..., :k]
    best = np.take_along_axis(values, order, -1)
    index = np.full((B, N, k), -1)
    index[..., : order.shape[-1]] = np.where(np.isinf(best), -1, order)
    smallest = np.full((B, N, k), np.inf)
    smallest[..., : best.shape[-1]] = best
    mutual = np.zeros((B, N), bool)
    for b, n in np.ndindex(B, N):
        r = index[b, n, 0]
        mutual[b, n] = r >= 0 and values[b, :, r].argmin() == n
    return smallest, index, mutual


def run(emulated, function, case, inputs, limits, kinds, has_mutual=True, **settings):
    emulated.set(**settings)
    B, N, M, _, k = case
    distance = np.zeros((B, N, k), kinds)
    index = np.zeros((B, N, k), np.int64)
    mutual = np.zeros((B, has_mutual * N), bool)
    function(*inputs, *limits, distance, index, mutual)
    return distance, index, mutual


CORES = [("cores", dtype) for dtype in TYPES]
CORES += [("tensor cores", dtype) for dtype in TYPES if dtype != "float64"]  # no float64 there
PROBLEMS = [(case, kind) for case in CASES for kind in ("plain", "lengths", "mask")]
PROBLEMS += [(case, "plain") for case in LARGER]


@pytest.mark.parametrize("metric", [0, 1], ids=["l2", "dot"])
@pytest.mark.parametrize(("cores", "dtype"), CORES)
@pytest.mark.parametrize(("case", "kind"), PROBLEMS, ids=str)
def test_nearest(emulated, case, kind, cores, dtype, metric):
    query, reference = vectors(case, dtype)
    if kind == "plain" and case[1] > 4:
        query[0, 3] = to_device(np.full(case[3], np.nan), dtype)  # has no neighbours
        reference[0, 1] = to_device(np.full(case[3], np.inf), dtype)  # is the neighbour of none
    q, r = (to_float64(t)[:, :, None] for t in (query, reference))
    r = r.transpose(0, 2, 1, 3)
    with np.errstate(invalid="ignore"):
        pairs = -(q * r).sum(-1) if metric else ((q - r) ** 2).sum(-1)
    pairs[~np.isfinite(pairs)] = np.inf
    limits = options(kind, case)
    values, index, mutual = select(pairs, limits, case[4])
    expected = -values if metric else np.sqrt(values)
    wide = np.float64 if dtype == "float64" else np.float32
    for seed, guard in enumerate(["after", "before"]):
        result = run(
            emulated, emulated.nearest, case, (query, reference), [*limits, metric], wide,
            seed=seed, guard=guard, major=8 if cores == "tensor cores" else 7,
        )  # fmt: skip
        np.testing.assert_allclose(result[0], expected, 1e-6)
        np.testing.assert_array_equal(result[1], index)
        np.testing.assert_array_equal(result[2], mutual)
    alone = run(
        emulated, emulated.nearest, case, (query, reference), [*limits, metric], wide, False,
        major=8 if cores == "tensor cores" else 7,
    )  # fmt: skip
    np.testing.assert_array_equal(alone[0], result[0])
    np.testing.assert_array_equal(alone[1], index)


def families():
    """Vectors with large errors in bfloat16: close together, far out, of all lengths."""
    random = np.random.default_rng(2)
    directions = random.standard_normal((1, 140, 48))
    near = directions[:, :1] + 1e-3 * random.standard_normal((1, 140, 48))
    yield "unit", directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    yield "one point", near
    yield "far out", near + 300
    yield "all sizes", directions * 10.0 ** random.integers(-6, 6, (1, 140, 1))
    yield "equal", np.ones((1, 140, 48))
    yield "too large for float16", directions * 1e17


@pytest.mark.parametrize("metric", [0, 1], ids=["l2", "dot"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "all_vectors"), list(families()), ids=lambda f: f if isinstance(f, str) else ""
)
def test_tensor_cores_are_exact(emulated, name, all_vectors, dtype, metric):
    """Tensor cores and CUDA cores give the same distances, indices and mutual tests."""
    case = (1, 60, 80, 48, 3)
    query, reference = to_device(all_vectors[:, :60], dtype), to_device(all_vectors[:, 60:], dtype)
    arguments = (case, (query, reference), [None, None, None, metric], np.float32)
    exact = run(emulated, emulated.nearest, *arguments, major=7)
    result = run(emulated, emulated.nearest, *arguments, major=8)
    assert (exact[1] >= 0).all()  # all neighbours exist
    q, r = to_float64(query)[0], to_float64(reference)[0]
    with np.errstate(over="ignore", invalid="ignore"):
        size = (np.abs(q).max() + np.abs(r).max()) ** 2 * 48
        tolerance = 1e-6 * size if metric else 1e-6 * np.abs(exact[0]).max()
        np.testing.assert_allclose(result[0], exact[0], 1e-5, min(tolerance, 1e30))
    # Far out, products of different pairs differ by the rounding of their sums only.
    if name != "far out" or metric == 0:
        np.testing.assert_array_equal(result[1], exact[1])
        np.testing.assert_array_equal(result[2], exact[2])


@pytest.mark.parametrize("kind", ["plain", "lengths", "mask"])
@pytest.mark.parametrize("words", [1, 4, 8, 40])
@pytest.mark.parametrize("case", [*CASES, (1, 129, 70, 0, 2), (1, 5, 800, 0, 3)], ids=str)
def test_hamming(emulated, case, words, kind):
    random = np.random.default_rng(0)
    query, reference = (
        random.integers(0, 2**64, (case[0], n, words), np.uint64) for n in case[1:3]
    )
    reference[:, :, 1:] = query[:, :1, 1:]  # few differing bits, and so ties
    difference = query[:, :, None] ^ reference[:, None]
    bits = np.unpackbits(difference.view(np.uint8), axis=-1).sum(-1).astype(float)
    limits = options(kind, case)
    values, index, mutual = select(bits, limits, case[4])
    for seed, guard in enumerate(["after", "before"]):
        result = run(
            emulated, emulated.nearest_hamming, case, (query, reference), limits, np.int32,
            seed=seed, guard=guard,
        )  # fmt: skip
        np.testing.assert_array_equal(result[0], np.where(np.isinf(values), -1, values))
        np.testing.assert_array_equal(result[1], index)
        np.testing.assert_array_equal(result[2], mutual)
    alone = run(
        emulated, emulated.nearest_hamming, case, (query, reference), limits, np.int32, False
    )
    np.testing.assert_array_equal(alone[0], result[0])
    np.testing.assert_array_equal(alone[1], index)


@pytest.mark.parametrize("words", [2048, 2049, 6200])
def test_hamming_of_descriptors_beyond_shared_memory(emulated, words):
    random = np.random.default_rng(0)
    query, reference = (random.integers(0, 2**64, (1, n, words), np.uint64) for n in (3, 5))
    bits = np.unpackbits((query[:, :, None] ^ reference[:, None]).view(np.uint8), axis=-1)
    limits, case = [None, None, None], (1, 3, 5, words, 2)
    values, index, mutual = select(bits.sum(-1).astype(float), limits, 2)
    result = run(emulated, emulated.nearest_hamming, case, (query, reference), limits, np.int32)
    np.testing.assert_array_equal(result[0], values)
    np.testing.assert_array_equal(result[1], index)
    np.testing.assert_array_equal(result[2], mutual)
