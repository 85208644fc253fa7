"""The emulator detects each kind of mistake, made on purpose in a toy kernel."""

import re

import numpy as np
import pytest

SEEDS = range(3)


@pytest.fixture(params=["after", "before"])
def toys(emulated, request):
    emulated.set(guard=request.param)
    return emulated.toys


def numbers(n):
    return np.arange(1, n + 1, dtype=np.float32)


@pytest.mark.parametrize("seed", SEEDS)
def test_barrier(emulated, seed):
    emulated.set(seed=seed)
    out = np.zeros(200, np.float32)
    emulated.toys.reverse(numbers(200), out, emulated.toys.Reverse.RIGHT)
    np.testing.assert_array_equal(out, numbers(200)[::-1])


@pytest.mark.parametrize("seed", SEEDS)
def test_missing_barrier_gives_nan(emulated, seed):
    emulated.set(seed=seed)
    out = np.zeros(200, np.float32)
    emulated.toys.reverse(numbers(200), out, emulated.toys.Reverse.NO_BARRIER)
    assert np.isnan(out).any()


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("SKIPPED", "199 of 200 have arrived, 1 have returned"),
        ("RETURNED", "199 of 200 have arrived, 1 have returned"),
        ("TWO", "199 of 200 have arrived, 0 have returned"),
    ],
)
def test_incomplete_barrier_is_reported(emulated, mistake, message):
    emulated.set()
    mistake = getattr(emulated.toys.Reverse, mistake)
    with pytest.raises(RuntimeError, match=rf"toys\.h:\d+ \(barrier\).*{message}"):
        emulated.toys.reverse(numbers(200), np.zeros(200, np.float32), mistake)


def test_reads_inside(toys):
    out = np.zeros(30, np.float32)
    toys.shift(numbers(31), out, 0, 1)
    np.testing.assert_array_equal(out, numbers(30) + 1)


def test_read_outside_faults(emulated):
    out = np.zeros(30, np.float32)
    emulated.set(guard="after")
    with pytest.raises(RuntimeError, match="0 bytes past the end of from"):
        emulated.toys.shift(numbers(30), out, 0, 1)
    emulated.set(guard="before")
    with pytest.raises(RuntimeError, match=r"thread \(0, 0, 0\) .* 4 bytes before from"):
        emulated.toys.shift(numbers(30), out, 0, -1)


def test_read_on_the_other_side_is_nan(emulated):
    out = np.zeros(30, np.float32)
    emulated.set(guard="after")
    emulated.toys.shift(numbers(30), out, 0, -1)
    assert np.isnan(out[0])


def test_write_outside_is_detected(emulated):
    emulated.set(guard="before")
    with pytest.raises(RuntimeError, match="touches 4 bytes before to"):
        emulated.toys.shift(numbers(40), np.zeros(30, np.float32), -1, 1)
    emulated.set(guard="after")
    with pytest.raises(RuntimeError, match="written 4 bytes before to"):
        emulated.toys.shift(numbers(40), np.zeros(30, np.float32), -1, 1)


def test_unwritten_output_is_nan(toys):
    out = np.zeros(30, np.float32)
    toys.shift(numbers(40), out, 5, 0)
    np.testing.assert_array_equal(np.isnan(out), np.arange(30) < 5)


def test_write_to_input_faults(toys):
    with pytest.raises(RuntimeError, match="touches from, which is read-only"):
        toys.launch(numbers(32), np.zeros(32, np.float32), 32, 0)


def test_unwritten_shared_memory_is_nan(toys):
    out = np.zeros(64, np.float32)
    toys.unwritten(numbers(64), out)
    np.testing.assert_array_equal(np.isnan(out), np.arange(64) == 0)


def test_access_past_shared_memory_faults(emulated):
    emulated.set(guard="after")
    with pytest.raises(RuntimeError, match="0 bytes past the end of shared memory"):
        emulated.toys.past_shared(numbers(32), np.zeros(32, np.float32), 1)
    emulated.set(guard="before")
    with pytest.raises(RuntimeError, match="4 bytes before shared memory"):
        emulated.toys.past_shared(numbers(32), np.zeros(32, np.float32), -1)


def test_undefined_behaviour_traps(toys):
    out = np.zeros(32, np.float32)
    toys.undefined(numbers(32), out, 3, 4)
    np.testing.assert_array_equal(out, 1)
    for index, offset in [(4, 0), (-1, 0), (0, 1)]:
        with pytest.raises(RuntimeError, match="undefined behaviour"):
            toys.undefined(numbers(32), out, index, offset)


@pytest.mark.parametrize("seed", SEEDS)
def test_warp_operations(emulated, seed):
    emulated.set(seed=seed)
    values = numbers(64) - 32.5
    out = np.zeros((64, 5), np.float32)
    emulated.toys.warp_sum(values, out, -1)
    warps = values.reshape(2, 32)
    total = warps.sum(1).repeat(32)
    before = np.maximum(np.arange(64) - 1, [0] * 32 + [32] * 32)
    np.testing.assert_array_equal(out[:, 0], total)
    np.testing.assert_array_equal(out[:, 1], total)
    np.testing.assert_array_equal(out[:, 2], values[before])
    np.testing.assert_array_equal(out[:, 3], [0] * 32 + [np.float32(2**32 - 1)] * 32)
    np.testing.assert_array_equal(out[:, 4], [0] * 32 + [3] * 32)


def test_incomplete_warp_operation_is_reported(emulated):
    emulated.set()
    with pytest.raises(RuntimeError, match=r"\(warp operation\).*31 of 32 have arrived"):
        emulated.toys.warp_sum(numbers(32), np.zeros((32, 5), np.float32), 7)


@pytest.mark.parametrize("seed", SEEDS)
def test_tensor_cores(emulated, seed):
    emulated.set(seed=seed)
    from_ = np.random.default_rng(seed).integers(-8, 9, (24, 16)).astype(np.float32)
    out = np.zeros((16, 8), np.float32)
    emulated.toys.multiply(from_, out, -1)
    np.testing.assert_array_equal(out, from_[:16] @ from_[16:].T)


def test_missing_lane_of_tensor_cores_is_reported(emulated):
    emulated.set()
    with pytest.raises(RuntimeError, match=r"\(warp operation\).*31 of 32 have arrived"):
        emulated.toys.multiply(numbers(24 * 16), np.zeros((16, 8), np.float32), 5)


@pytest.mark.parametrize("seed", SEEDS)
def test_asynchronous_copies(emulated, seed):
    """Thread 0 copies zeros. A copy that is not waited for has not arrived."""
    emulated.set(seed=seed)
    from_, out = numbers(2 * 32 * 4), np.zeros(2 * 32 * 4, np.float32)
    emulated.toys.copy(from_, out, True)
    expected = from_.copy().reshape(2, 32, 4)
    expected[:, 0] = 0
    np.testing.assert_array_equal(out, expected.ravel())
    emulated.toys.copy(from_, out, False)
    np.testing.assert_array_equal(out[:128], expected[0].ravel())
    assert np.isnan(out[128:]).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_votes_of_a_block(emulated, seed):
    emulated.set(seed=seed)
    values, out = numbers(70) - 20.5, np.zeros(70, np.float32)
    emulated.toys.vote(values, out, 70)
    np.testing.assert_array_equal(out, (values > 0).sum())
    with pytest.raises(RuntimeError, match=r"\(barrier\)"):
        emulated.toys.vote(values, out, 3)


def test_atomics(toys):
    out = np.zeros(1, np.float32)
    toys.count(numbers(1), out, 300)
    assert out[0] == 300


@pytest.mark.parametrize(("threads", "shared"), [(1025, 0), (0, 0), (32, 48 * 1024 + 1)])
def test_launch_limits(toys, threads, shared):
    with pytest.raises(RuntimeError, match=re.escape("a launch with ")):
        toys.launch(numbers(32), np.zeros(32, np.float32), threads, shared)


def test_half_conversions(emulated):
    bits = np.arange(2**16, dtype=np.uint16)
    halves = bits.view(np.float16)
    floats = np.array([emulated.half_to_float(b) for b in bits], np.float32)
    np.testing.assert_array_equal(floats, halves.astype(np.float32))
    # All half values, their neighbours in float32, and the midpoints between them.
    finite = np.unique(floats[np.isfinite(floats)])
    middle = (finite[1:] + finite[:-1]) / 2
    cases = [finite, np.nextafter(finite, np.inf), middle, np.nextafter(middle, -np.inf)]
    for case in [*cases, np.float32([65519, 65520, -65520, 1e-9, np.inf, -np.inf, np.nan, -0.0])]:
        result = np.array([emulated.float_to_half(v) for v in case], np.uint16).view(np.float16)
        with np.errstate(over="ignore"):
            expected = case.astype(np.float16)
        np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(np.signbit(result), np.signbit(expected))
