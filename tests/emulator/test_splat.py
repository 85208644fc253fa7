"""csrc/cuda/splat.cu against a float64 reference in plain loops."""

import numpy as np
import pytest

from .arrays import assert_close, lazy_zeros, run_last_blocks

# B, C, H, W: the smallest, odd sizes, several tiles (8 x 32), more channels than are summed at once
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 5, 9, 33), (1, 2, 20, 70)]
WILD = [np.nan, np.inf, -1e30, 1e30, 2.0**24, -3.0]


def problem(shape, dtype):
    random = np.random.default_rng(0)
    B, _, H, W = shape
    image, g = (random.standard_normal(shape).astype(dtype) for _ in range(2))
    flow = (3 * random.standard_normal((B, 2, H, W))).astype(dtype)
    if H * W > 20:
        flow[0, 1].reshape(-1)[: len(WILD)] = WILD
        flow[-1, 0, :, : W // 2] = W // 3 - np.arange(W // 2) + 0.25  # many pixels in one column
    return image, flow, g


def boxes(shape):
    """Scratch memory: first and last y and x, for each block of 8 x 32 sources."""
    return np.zeros((shape[0], -(-shape[2] // 8) * -(-shape[3] // 32), 4), np.int64)


def reference(image, flow, g):
    """Sums and their gradients, by loops over sources and their targets."""
    B, _, H, W = image.shape
    out, grad, along = np.zeros(image.shape), np.zeros(image.shape), np.zeros(flow.shape)
    for b, y, x in np.ndindex(B, H, W):
        u, v = flow[b, :, y, x].astype(np.float64)
        if not (abs(u) < 2**24 and abs(v) < 2**24):
            continue
        fx, fy = u - np.floor(u), v - np.floor(v)
        for below, right in np.ndindex(2, 2):
            row, column = y + int(np.floor(v)) + below, x + int(np.floor(u)) + right
            if not (0 <= row < H and 0 <= column < W):
                continue
            down, across = (fy if below else 1 - fy), (fx if right else 1 - fx)
            out[b, :, row, column] += down * across * image[b, :, y, x]
            grad[b, :, y, x] += down * across * g[b, :, row, column]
            product = image[b, :, y, x].astype(np.float64) @ g[b, :, row, column]
            along[b, 0, y, x] += (1 if right else -1) * down * product
            along[b, 1, y, x] += (1 if below else -1) * across * product
    return out, grad, along


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_splat(emulated, shape, dtype):
    image, flow, g = problem(shape, dtype)
    runs = []
    for seed, guard in enumerate(["after", "before"]):
        emulated.set(seed=seed, guard=guard)
        results = [np.zeros_like(t) for t in (image, image, flow)]
        emulated.splat(image, flow, boxes(shape), results[0])
        emulated.splat_grad(g, image, flow, *results[1:])
        runs.append(results)
    for result, exact in zip(runs[0], reference(image, flow, g), strict=True):
        assert_close(result, exact, dtype)
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first, second)  # bit-identical for any order of threads


def test_offsets_beyond_32_bits(emulated):
    """The last tile of arrays with more than 2^31 elements; no other block runs."""
    shape = (1, 65, 4096, 8192)
    image, out, g, grad = (lazy_zeros(shape, np.float32) for _ in range(4))
    flow, along = (lazy_zeros((1, 2, *shape[2:]), np.float32) for _ in range(2))
    assert image.size > 2**31
    last = np.s_[:, :, -8:, -32:]
    image[last], flow[last], g[last] = problem((1, 65, 8, 32), np.float32)
    expected = reference(image[last], flow[last], g[last])
    landing = boxes(shape)
    landing[..., 0] = shape[2]  # no other block of sources lands anywhere
    landing[0, -1] = [-1, shape[2], -1, shape[3]]
    run_last_blocks(emulated, 1, 8, emulated.splat, image, flow, landing, out)
    run_last_blocks(emulated, 1, 8, emulated.splat_grad, g, image, flow, grad, along)
    assert_close(out[last][:, -3:], expected[0][:, -3:], "float32")
    for result, exact in ((grad, expected[1]), (along, expected[2])):  # a block is part of a row
        assert_close(result[:, -3:, -1, -32:], exact[:, -3:, -1], "float32")
