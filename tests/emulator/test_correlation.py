"""csrc/cuda/correlation*.cu against a float64 reference."""

import itertools

import numpy as np
import pytest

from .arrays import (
    TYPES,
    assert_close,
    lazy_zeros,
    run,
    run_last_blocks,
    to_device,
    to_float64,
)

# B, C, H, W, radius, stride, and optionally offset; radius and offset (y, x)
CASES = [
    (1, 1, 1, 1, (0, 0), 1),
    (2, 3, 7, 5, (2, 2), 1),
    (1, 5, 9, 33, (4, 4), 2),  # one column more than a tile, but not on its lattice
    (1, 17, 6, 31, (10, 10), 2),
    (1, 8, 4, 32, (4, 4), 1),  # exactly one tile and one slice of channels
    (1, 9, 5, 33, (4, 4), 1),  # one more along each dimension
    (1, 7, 3, 31, (5, 5), 1),  # one less along each dimension
    (1, 2, 8, 65, (6, 6), 1),
    (1, 4, 9, 66, (3, 3), 2),
    (1, 31, 3, 3, (1, 1), 1),  # one less than the channels of a warp
    (1, 33, 3, 4, (1, 1), 1),  # one more
    (1, 65, 2, 3, (1, 1), 1),  # one more than the channels of a block, for doubles
    (1, 129, 2, 3, (1, 1), 1),  # one more than the channels of a block, for floats
    (1, 2, 4, 3, (6, 6), 3),  # displacements entirely outside the other image
    (1, 1, 3, 5, (25, 25), 1),  # several blocks in x, several chunks of displacements
    (3, 2, 1, 7, (2, 2), 100),  # a stride longer than the image
    (1, 33, 5, 34, (12, 12), 1),  # tensor cores: longest band in one part, two slices
    (1, 32, 5, 34, (13, 13), 1),  # tensor cores: a band in two parts
    (1, 3, 2, 33, (17, 17), 1),  # tensor cores: a gradient's band in two parts
    (1, 5, 9, 33, (0, 12), 1, (0, -12)),  # disparities
    (1, 9, 11, 37, (3, 1), 2, (1, -3)),  # offsets that are not on the lattice of the stride
    (2, 2, 5, 6, (1, 2), 2**30, (-(2**30), 2**30 + 1)),  # a far lattice that comes near again
]


def moved(image, y, x):
    """The image moved by (-y, -x), with zeros outside."""
    out = np.zeros_like(image)
    H, W = image.shape[-2:]
    if abs(y) < H and abs(x) < W:
        to = np.s_[..., max(0, -y) : H - max(0, y), max(0, -x) : W - max(0, x)]
        out[to] = image[..., max(0, y) : H + min(0, y), max(0, x) : W + min(0, x)]
    return out


def displacements(radius, stride, offset=(0, 0)):
    sides = [
        [o + step * stride for step in range(-r, r + 1)]
        for r, o in zip(radius, offset, strict=True)
    ]
    return list(itertools.product(*sides))


def correlation(f1, f2, *grid):
    return np.stack([(f1 * moved(f2, y, x)).mean(1) for y, x in displacements(*grid)], 1)


def gradient(g, other, radius, stride, first, offset=(0, 0)):
    total = np.zeros(other.shape)
    for k, (y, x) in enumerate(displacements(radius, stride, offset)):
        entry = g[:, [k]]
        total += entry * moved(other, y, x) if first else moved(entry * other, -y, -x)
    return total / other.shape[1]


def images(case, dtype):
    random = np.random.default_rng(0)
    batch, channels, height, width = case[:4]
    shapes = [(batch, channels, height, width)] * 2
    shapes.append((batch, len(displacements(*case[4:])), height, width))
    return [to_device(random.standard_normal(shape), dtype) for shape in shapes]


@pytest.mark.parametrize("major", [7, 8], ids=["cores", "tensor-cores"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(emulated, case, dtype, major):
    f1, f2, g = images(case, dtype)
    expected = correlation(to_float64(f1), to_float64(f2), *case[4:])
    results = [
        run(
            emulated,
            emulated.correlation,
            f1,
            f2,
            g.shape,
            *case[4:6],
            False,
            *case[6:],
            seed=seed,
            guard=guard,
            major=major,
        )
        for seed, guard in enumerate(["after", "before"])
    ]
    assert_close(results[0], expected, dtype)
    np.testing.assert_array_equal(*results)  # bit-identical for any order of threads


@pytest.mark.parametrize("major", [7, 8], ids=["cores", "tensor-cores"])
@pytest.mark.parametrize("first", [True, False], ids=["f1", "f2"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient(emulated, case, dtype, first, major):
    _, other, g = images(case, dtype)
    expected = gradient(to_float64(g), to_float64(other), *case[4:6], first, *case[6:])
    arguments = (g, other, other.shape, *case[4:6], first, False, *case[6:])
    results = [
        run(emulated, emulated.correlation_grad, *arguments, major=major, **settings)
        for settings in ({"seed": 0, "guard": "after"}, {"seed": 1, "guard": "before"})
    ]
    assert_close(results[0], expected, dtype)
    np.testing.assert_array_equal(*results)


def to_tf32(x):
    """Round to the nearest float with a mantissa of 10 bits, ties away from zero."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x1000) & ~np.uint32(0x1FFF)).view(np.float32)


def gains_from_tf32(case):
    """Whether the volume is computed as TF32: with few channels float32 is as fast."""
    return case[1] >= (64 if case[4][1] <= 4 else 16)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tf32(emulated, case):
    """With TF32 the products are those of rounded inputs, summed in float."""
    f1, f2, g = images(case, "float32")
    grid = case[4:]
    rounded = [to_tf32(x).astype(np.float64) for x in (f1, f2, g)]
    assert case[1] < 2 or any((a != b).any() for a, b in zip(rounded, (f1, f2, g), strict=True))
    for seed, guard in enumerate(["after", "before"]):
        settings = {"seed": seed, "guard": guard, "major": 8}
        arguments = (f1, f2, g.shape, *grid[:2], True, *grid[2:])
        result = run(emulated, emulated.correlation, *arguments, **settings)
        inputs = rounded[:2] if gains_from_tf32(case) else (f1, f2)
        assert_close(result, correlation(*inputs, *grid), "float32")
        for first in (True, False):
            other = 1 if first else 0
            result = run(
                emulated, emulated.correlation_grad, g, (f1, f2)[other], f1.shape, *grid[:2], first,
                True, *grid[2:], **settings,
            )  # fmt: skip
            exact = gradient(rounded[2], rounded[other], *grid[:2], first, *grid[2:])
            assert_close(result, exact, "float32")


def test_gradients_are_adjoint(emulated):
    """<g, correlation(f1, f2)> = <grad1, f1> = <grad2, f2>, independent of the reference."""
    case = (1, 3, 6, 9, (2, 2), 2)
    f1, f2, g = images(case, "float64")
    volume = run(emulated, emulated.correlation, f1, f2, g.shape, *case[4:])
    grad1 = run(emulated, emulated.correlation_grad, g, f2, f1.shape, *case[4:], True)
    grad2 = run(emulated, emulated.correlation_grad, g, f1, f1.shape, *case[4:], False)
    expected = (g * volume).sum()
    np.testing.assert_allclose([(grad1 * f1).sum(), (grad2 * f2).sum()], expected, 1e-12)


@pytest.mark.parametrize(
    "case",
    [(1, 1, 3400, 8192, (4, 4), 1), (1, 81, 3400, 8192, (1, 1), 1)],
    ids=["volume", "images"],
)
def test_offsets_beyond_32_bits(emulated, case):
    """The last tile of arrays with more than 2^31 elements; no other block runs."""
    f1, f2, grad = (lazy_zeros(case[:4], np.float16) for _ in range(3))
    volume = lazy_zeros((1, len(displacements(*case[4:])), *case[2:4]), np.float16)
    assert max(volume.size, f1.size) > 2**31
    corner = np.s_[:, :, -16:, -48:]
    f1[corner], f2[corner], g = images((*case[:2], 16, 48, *case[4:]), "float16")
    last = np.s_[:, :, -4:, -32:]
    expected = correlation(to_float64(f1[corner]), to_float64(f2[corner]), *case[4:])
    for major, blocks in ((7, 1), (8, 3)):  # number of blocks of the last tile
        volume[last] = 0
        arguments = (f1, f2, volume, *case[4:])
        run_last_blocks(emulated, blocks, major, emulated.correlation, *arguments)
        assert_close(volume[last], expected[last], "float16")

    volume[corner] = g
    for first in [True, False]:
        expected = gradient(to_float64(g), to_float64(f2[corner]), *case[4:], first)
        for major, blocks in ((7, 1), (8, 2)):
            grad[last] = 0
            arguments = (volume, f2, grad, *case[4:], first)
            run_last_blocks(emulated, blocks, major, emulated.correlation_grad, *arguments)
            assert_close(grad[last], expected[last], "float16")
