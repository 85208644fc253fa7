"""Element types, comparison and running of kernels for the tests of emulated kernels."""

import mmap

import numpy as np

TYPES = ["float32", "float64", "float16", "bfloat16"]
# Rounding of the result; for float32 also that of its sum.
TOLERANCE = {"float64": 1e-14, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}


def to_device(x, dtype):
    """Convert to the type of the kernel; bfloat16, which numpy lacks, is passed as its bits."""
    if dtype != "bfloat16":
        return x.astype(dtype)
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def to_float64(x):
    if x.dtype == np.uint16:
        x = (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float64)


def run(emulated, function, a, b, shape, *arguments, **settings):
    emulated.set(**settings)
    out = np.zeros(shape, a.dtype)
    function(a, b, out, *arguments)
    return out


def assert_close(got, expected, dtype):
    scale = max(np.abs(expected).max(), 1e-30)
    np.testing.assert_allclose(to_float64(got) / scale, expected / scale, 0, TOLERANCE[dtype])


def lazy_zeros(shape, dtype):
    """Zeros in memory that is allocated when it is accessed."""
    reserve_nothing = getattr(mmap, "MAP_NORESERVE", 0x4000)  # not defined in older Python versions
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | reserve_nothing
    buffer = mmap.mmap(-1, np.dtype(dtype).itemsize * int(np.prod(shape)), flags=flags)
    return np.frombuffer(buffer, dtype).reshape(shape)


def run_last_blocks(emulated, count, major, function, *arguments):
    """Run the last `count` blocks of the last launch only."""
    emulated.set(guard="none", skip=2**62, major=major)
    function(*arguments)
    emulated.set(guard="none", skip=emulated.blocks() - count, major=major)
    function(*arguments)
