"""The launches of each operator at the sizes of the benchmark; nothing runs.

A GPU with 132 multiprocessors is full with two blocks on each: kernels that take long must have
that many, also on the coarse levels of a pyramid and for few queries.
"""

import numpy as np
import pytest

from .arrays import lazy_zeros

FULL = 2 * 132


def launches(emulated, function, *arguments):
    """(blocks, threads, bytes of shared memory) of each kernel, which are not run."""
    emulated.set(guard="none", skip=2**62, major=8)
    function(*arguments)
    return emulated.launches()


def zeros(*shape, dtype=np.float32):
    return lazy_zeros(shape, dtype) if np.prod(shape) else np.zeros(shape, dtype)


# B, C, H, W, radius, stride: least numbers of blocks, forward and backward. One pair of frames at
# an eighth of 440 x 1024 does not fill a GPU.
VOLUMES = {
    (8, 256, 48, 64, 10, 2): (FULL, FULL),
    (8, 32, 96, 128, 4, 1): (FULL, FULL),
    (1, 256, 55, 128, 10, 2): (168, 112),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", VOLUMES, ids=str)
def test_correlation(emulated, shape, dtype):
    *size, radius, stride = shape
    f1, f2 = zeros(*size, dtype=dtype), zeros(*size, dtype=dtype)
    volume = zeros(size[0], (2 * radius + 1) ** 2, *size[2:], dtype=dtype)
    grid = ((radius, radius), stride)
    forward = launches(emulated, emulated.correlation, f1, f2, volume, *grid)
    backward = launches(emulated, emulated.correlation_grad, volume, f2, f1, *grid, True)
    for least, ((blocks, threads, _),) in zip(VOLUMES[shape], (forward, backward), strict=True):
        assert blocks >= least and threads <= 256


@pytest.mark.parametrize(
    "channels, radius, gains", [(32, 4, False), (64, 4, True), (8, 10, False), (32, 10, True)]
)
def test_tf32_is_chosen_where_it_is_faster(emulated, channels, radius, gains):
    """By the model of benchmarks/model.py; else the same kernel runs with TF32 as without it."""
    f1, volume = zeros(8, channels, 48, 64), zeros(8, (2 * radius + 1) ** 2, 48, 64)
    arguments = (emulated.correlation, f1, f1, volume, (radius, radius), 1)
    plain, tf32 = (launches(emulated, *arguments, allowed) for allowed in (False, True))
    assert (plain != tf32) == gains


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_lookup(emulated, dtype):
    f1, coords = zeros(1, 55, 128, 256, dtype=dtype), zeros(1, 2, 55, 128)
    levels = [zeros(1, 55 >> n, 128 >> n, 256, dtype=dtype) for n in range(4)]
    volume = zeros(1, 4 * 81, 55, 128, dtype=dtype)
    arguments = (f1, levels, coords, volume, [0.5**n for n in range(4)], 4, 4)
    ((blocks, threads, _),) = launches(emulated, emulated.correlation_lookup, *arguments)
    # On tensor cores one launch for all levels, of 128 pixels a block.
    assert blocks >= (4 * FULL if dtype == np.float32 else 4 * 56) and threads == 256


@pytest.mark.parametrize("level", range(4))
def test_lookup_gradients(emulated, level):
    f1, f2 = zeros(1, 55, 128, 256), zeros(1, 55 >> level, 128 >> level, 256)
    coords, volume = zeros(1, 2, 55, 128), zeros(1, 81, 55, 128)
    pixels, gather, _ = launches(
        emulated, emulated.correlation_lookup_grad, volume, f1, f2, coords, f1, f2, coords,
        0.5**level, 4, 4,
    )  # fmt: skip
    assert pixels[0] >= FULL and gather[0] >= FULL


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("shape", [(1, 8192), (1, 32768), (64, 512)], ids=str)
def test_nearest(emulated, shape, mutual):
    B, N = shape
    vectors = zeros(B, N, 128)
    outputs = (
        zeros(B, N, 2), zeros(B, N, 2, dtype=np.int64), zeros(B, N * mutual, dtype=np.bool_)
    )  # fmt: skip
    kernels = launches(emulated, emulated.nearest, vectors, vectors, None, None, None, 0, *outputs)
    search = kernels[1::2]  # after the squares, each search and the merging of its lists
    assert all(blocks >= 256 for blocks, *_ in search[: 1 + mutual])


@pytest.mark.parametrize("count", [8192, 32768])
def test_hamming(emulated, count):
    words = zeros(1, count, 4, dtype=np.uint64)
    outputs = (
        zeros(1, count, 2, dtype=np.int32), zeros(1, count, 2, dtype=np.int64),
        zeros(1, 0, dtype=np.bool_),
    )  # fmt: skip
    kernels = launches(emulated, emulated.nearest_hamming, words, words, None, None, None, *outputs)
    assert kernels[0][0] >= 1024 and kernels[0][1] == 128  # almost 8 blocks on each, of 4 warps


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(64, 512), (1, 4096)], ids=str)
def test_pairwise(emulated, shape, dtype):
    B, N = shape
    x, out = zeros(B, N, 128, dtype=dtype), zeros(B, N, N, dtype=dtype)
    kernels = launches(emulated, emulated.pairwise_distance, x, x, out, 0)
    assert kernels[-1][0] >= FULL
