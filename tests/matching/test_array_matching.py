"""Matching of arrays finds what the operator `nearest` finds."""

import numpy as np
import pytest
import torch

from flowmatch.matching._array_matching import match_arrays
from flowmatch.ops import nearest


def by_operator(queries, references, metric, ratio, mutual):
    a, b = torch.from_numpy(queries), torch.from_numpy(references)
    found = nearest(a, b, 1, metric, ratio=ratio, mutual=mutual)
    index, distance = found.index[:, 0].numpy(), found.distance[:, 0].float().numpy()
    accepted = index >= 0 if found.accepted is None else found.accepted.numpy()
    chosen = np.flatnonzero(accepted)
    chosen = chosen[distance[chosen].argsort(kind="stable")]
    return np.stack([chosen, index[chosen]], 1), distance[chosen]


def descriptors(kind, count, seed):
    """Return descriptors of which some are equal and many are close to each other."""
    rng = np.random.default_rng(seed)
    if kind == "hamming":
        return rng.integers(0, 4, (count, 4)).astype(np.uint8)
    if kind == "integers":  # as of SIFT, with ties
        return rng.integers(0, 3, (count, 6)).astype(np.float32)
    centres = np.random.default_rng(9).random((7, 128))
    vectors = centres[rng.integers(0, 7, count)] + rng.normal(0, 1e-4, (count, 128))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("kind", ["hamming", "integers", "close"])
@pytest.mark.parametrize(("ratio", "mutual"), [(None, False), (None, True), (0.9, True)])
def test_equals_the_operator(kind, ratio, mutual):
    queries, references = descriptors(kind, 1100, 0), descriptors(kind, 700, 1)
    queries[5] = references[6]
    metric = "hamming" if kind == "hamming" else "l2"
    pairs, distances = match_arrays(queries, references, ratio=ratio, mutual=mutual)
    expected = by_operator(queries, references, metric, ratio, mutual)
    if kind == "close":  # the last bit of a distance, by which the order may change
        assert {tuple(p) for p in pairs} == {tuple(p) for p in expected[0]}
    else:
        np.testing.assert_array_equal(pairs, expected[0])
    np.testing.assert_allclose(distances, expected[1], rtol=1e-5)
    assert len(pairs) > 0 or ratio
    assert pairs.dtype == np.int64 and distances.dtype == np.float32


@pytest.mark.parametrize("count", [0, 1])
def test_few_references(count):
    queries, references = descriptors("close", 3, 0), descriptors("close", count, 1)
    pairs, _ = match_arrays(queries, references, ratio=None, mutual=False)
    assert pairs.tolist() == [[k, 0] for k in range(3) for _ in range(count)] or count
    assert len(pairs) == 3 * count
    assert len(match_arrays(queries, references)[0]) == 0  # no second neighbour
    assert len(match_arrays(references, queries, ratio=None)[0]) == count


def test_errors():
    a = np.zeros((2, 8), np.float32)
    with pytest.raises(ValueError, match=r"one length and type, got float32 \[2, 8\] and float32"):
        match_arrays(a, np.zeros((2, 9), np.float32))
    with pytest.raises(ValueError, match="one length and type, got float32"):
        match_arrays(a, a.astype(np.uint8))
    with pytest.raises(ValueError, match="0 < ratio <= 1, or None, got 2"):
        match_arrays(a, a, ratio=2)
