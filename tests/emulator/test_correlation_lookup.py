"""csrc/cuda/correlation_lookup.cu against a float64 reference in plain loops."""

import numpy as np
import pytest

from .arrays import TYPES, assert_close, to_device, to_float64

# B, C, (H, W), (H2, W2), radius_y, radius_x
CASES = [
    (1, 1, (1, 1), (1, 1), 0, 0),
    (2, 3, (5, 7), (6, 9), 2, 2),
    (1, 33, (2, 9), (4, 5), 0, 3),  # stereo, one channel more than lanes
    (1, 5, (3, 3), (7, 12), 4, 4),  # more taps than lanes
    (1, 300, (1, 2), (3, 4), 1, 1),  # more channels than a warp has in registers
    (1, 64, (2, 3), (5, 6), 2, 2),  # channels that are read four at once if aligned
    (1, 4, (9, 11), (6, 5), 1, 2),  # more pixels of f1 than 32, in several parts
    (2, 40, (3, 5), (4, 8), 1, 1),  # exactly one tile; quads that not all lanes have
    (1, 2, (1, 3), (50, 6), 20, 17),  # a window in several parts, fewer warps per block
]
# The same, of sizes that half types compute on tensor cores: 8 x 16 pixels a block.
TENSOR_CASES = [
    (2, 64, (9, 17), (6, 20), 4, 4),  # one pixel more than a block each way
    (1, 128, (3, 8), (60, 90), 1, 3),  # rows of eight pixels, windows far apart
    (1, 256, (2, 3), (1, 1), 0, 4),  # a window of stereo, in one pixel
]
SCALE = 0.5
WILD = [np.nan, np.inf, -1e30, 1e30]


def problem(case, dtype):
    random = np.random.default_rng(0)
    B, C, size, size2, *_ = case
    f1, f2 = (to_device(random.standard_normal((B, *s, C)), dtype) for s in (size, size2))
    coords = random.uniform(-4, 2 * max(size2) + 4, (B, 2, *size))
    coords = coords.astype(np.float64 if dtype == "float64" else np.float32)
    flat = coords.reshape(-1)
    if flat.size > 8:
        flat[: len(WILD)] = WILD
        flat[len(WILD)] = 2.0  # an integer coordinate
    g = random.standard_normal((B, (2 * case[4] + 1) * (2 * case[5] + 1), *size))
    return f1, f2, coords, to_device(g, dtype)


def reference(f1, f2, coords, g, radius_y, radius_x):
    """Results and all gradients, by loops over pixels and displacements."""
    B, H, W, C = f1.shape
    H2, W2 = f2.shape[1:3]
    out = np.zeros(g.shape)
    grad1, grad2, along = np.zeros(f1.shape), np.zeros(f2.shape), np.zeros(coords.shape)
    for b, y, x in np.ndindex(B, H, W):
        u, v = coords[b, :, y, x].astype(np.float64) * SCALE
        if not (abs(u) < 2**24 and abs(v) < 2**24):
            continue
        left, top = int(np.floor(u)), int(np.floor(v))
        fx, fy = u - left, v - top
        for d, (dy, dx) in enumerate(np.ndindex(2 * radius_y + 1, 2 * radius_x + 1)):
            entry = g[b, d, y, x] / np.sqrt(C)
            for a, k in np.ndindex(2, 2):
                row, column = top - radius_y + dy + a, left - radius_x + dx + k
                if not (0 <= row < H2 and 0 <= column < W2):
                    continue
                down, right = (fy if a else 1 - fy), (fx if k else 1 - fx)
                product = f1[b, y, x] @ f2[b, row, column]
                out[b, d, y, x] += down * right * product / np.sqrt(C)
                grad1[b, y, x] += down * right * entry * f2[b, row, column]
                grad2[b, row, column] += down * right * entry * f1[b, y, x]
                along[b, 0, y, x] += SCALE * entry * product * down * (1 if k else -1)
                along[b, 1, y, x] += SCALE * entry * product * right * (1 if a else -1)
    return out, grad1, grad2, along


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_lookup(emulated, case, dtype):
    f1, f2, coords, g = problem(case, dtype)
    wide = [to_float64(t) for t in (f1, f2)]
    expected = reference(*wide, coords, to_float64(g), *case[4:])
    runs = []
    for seed, guard in enumerate(["after", "before"]):
        emulated.set(seed=seed, guard=guard)
        out, grad1, grad2 = (np.zeros_like(t) for t in (g, f1, f2))
        along = np.zeros_like(coords)
        emulated.correlation_lookup(f1, [f2], coords, out, [SCALE], *case[4:])
        emulated.correlation_lookup_grad(g, f1, f2, coords, grad1, grad2, along, SCALE, *case[4:])
        runs.append((out, grad1, grad2, along))
    for result, exact in zip(runs[0][:3], expected[:3], strict=True):
        assert_close(result, exact, dtype)
    scale = max(np.abs(expected[3]).max(), 1e-30)
    close = 1e-12 if dtype == "float64" else 5e-6
    np.testing.assert_allclose(runs[0][3] / scale, expected[3] / scale, 0, close)
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first, second)  # bit-identical for any order of threads


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", TENSOR_CASES, ids=str)
def test_lookup_on_tensor_cores(emulated, case, dtype):
    """Random windows: a block takes them in several passes, and the rest one at a time."""
    f1, f2, coords, g = problem(case, dtype)
    expected = reference(to_float64(f1), to_float64(f2), coords, to_float64(g), *case[4:])[0]
    runs = []
    for seed, guard in enumerate(["after", "before"]):
        emulated.set(seed=seed, guard=guard)
        out = np.zeros_like(g)
        emulated.correlation_lookup(f1, [f2], coords, out, [SCALE], *case[4:])
        runs.append(out)
    assert_close(runs[0], expected, dtype)
    np.testing.assert_array_equal(*runs)
    ((_, _, shared),) = emulated.launches()
    assert shared > 48 << 10  # rows of the second image


def smooth(height, width, slope):
    """Coordinates of a flow that grows by `slope` pixels for each pixel."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([x * (1 + slope) - 1.25, y * (1 - slope) + 1.5])[None]


@pytest.mark.parametrize("slope", [0, 0.5, -2.5])
@pytest.mark.parametrize("dtype", TYPES)
def test_all_levels_of_a_pyramid(emulated, dtype, slope):
    """More levels than a launch has on tensor cores, of a smooth flow."""
    random = np.random.default_rng(1)
    scales = [0.5**n for n in range(9)]
    sizes = [(max(11 >> n, 1), max(19 >> n, 1)) for n in range(9)]
    f1 = to_device(random.standard_normal((1, 9, 18, 64)), dtype)
    levels = [to_device(random.standard_normal((1, *size, 64)), dtype) for size in sizes]
    coords = smooth(9, 18, slope).astype(np.float64 if dtype == "float64" else np.float32)
    out = np.zeros((1, 9 * 9, 9, 18), f1.dtype)
    emulated.set()
    emulated.correlation_lookup(f1, levels, coords, out, scales, 1, 1)
    for n, (f2, scale) in enumerate(zip(levels, scales, strict=True)):
        g = np.zeros((1, 9, 9, 18))
        exact = reference(to_float64(f1), to_float64(f2), coords * scale / SCALE, g, 1, 1)[0]
        assert_close(out[:, 9 * n : 9 * n + 9], exact, dtype)


def test_values_that_are_not_finite_spoil_only_their_windows(emulated):
    """Also where a window is partly outside, and its products are not computed."""
    f1, f2 = (np.ones((1, 8, 16, 64), np.float16) for _ in range(2))
    f1[0, 0, 0, 3] = np.inf
    f2[0, 5, 9, 7] = np.nan
    coords, out = smooth(8, 16, 0) + np.float32(0.5), np.zeros((1, 9, 8, 16), np.float16)
    emulated.set()
    emulated.correlation_lookup(f1, [f2], coords, out, [1.0], 1, 1)
    wide = [to_float64(t) for t in (f1, f2)]
    with np.errstate(invalid="ignore"):
        exact = reference(*wide, coords / SCALE, out * 0, 1, 1)[0]
    np.testing.assert_array_equal(np.isfinite(out), np.isfinite(exact))
    assert 100 < np.isfinite(out).sum() < out.size


def test_a_gpu_without_tensor_cores(emulated):
    f1, f2, coords, g = problem(TENSOR_CASES[2], "float16")
    emulated.set(major=7)
    out = np.zeros_like(g)
    emulated.correlation_lookup(f1, [f2], coords, out, [SCALE], 0, 4)
    ((_, _, shared),) = emulated.launches()
    assert shared < 48 << 10
    expected = reference(to_float64(f1), to_float64(f2), coords, to_float64(g), 0, 4)[0]
    assert_close(out, expected, "float16")
