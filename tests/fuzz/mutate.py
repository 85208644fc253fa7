"""Mutators of small valid files."""

import random
import re
import struct
from collections.abc import Callable, Sequence

_NUMBER = re.compile(rb"(?<![\w.])[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
_TEXTS = (
    b"0", b"-1", b"1", b"2", b"255", b"256", b"65535", b"65536", b"2147483647", b"2147483648",
    b"-2147483648", b"4294967295", b"4294967296", b"9223372036854775807", b"18446744073709551616",
    b"99999999", b"999999999999999", b"1" * 30, b"7" * 5000, b"1e308", b"-1e309", b"1e-320",
    b"nan", b"-nan", b"inf", b"-Infinity", b"0x10", b"1_0", b"", b"1.", b".5", b"1,5", b"--1",
    b"\xd9\xa1", b"\xc2\xb2", b"1e9", b"00", b"+3",
)  # fmt: skip
_INTEGERS = (
    0, 1, 2, 3, 4, 7, 8, 16, 127, 128, 255, 256, 1000, 32767, 32768, 65535, 65536, 2**24, 2**30,
    2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
_FLOATS = (float("nan"), float("inf"), float("-inf"), 1e308, -1e38, 1e-310, 0.0, -0.0, 1e10)
_HEAD = 96  # bytes in which most headers lie

Mutator = Callable[[random.Random, bytes], bytes]


def _place(rng: random.Random, data: bytes) -> int:
    """Return a random place, every second time in the head."""
    length = min(len(data), _HEAD) if rng.random() < 0.5 else len(data)
    return rng.randrange(length) if length else 0


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if changed:
            changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    new = rng.choice((b"\0", b"\xff", b"\n", b" ", b"\r", b"\x80", rng.randbytes(3), b"\0" * 9))
    return data[:at] + new + data[at + len(new) :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    new = rng.choice((rng.randbytes(rng.randrange(1, 40)), b"\n", b" ", b"#", b"\0" * 20, b"1 "))
    return data[:at] + new + data[at:]


def _delete(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 1, 2, 4, 20)) :]


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _number_as_text(rng: random.Random, data: bytes) -> bytes:
    numbers = list(_NUMBER.finditer(data[:2000]))
    if not numbers:
        return _number(rng, data)
    number = rng.choice(numbers)
    return data[: number.start()] + rng.choice(_TEXTS) + data[number.end() :]


def _number(rng: random.Random, data: bytes) -> bytes:
    order, at = rng.choice("<>"), _place(rng, data)
    if rng.random() < 0.2:
        new = struct.pack(order + "d", rng.choice(_FLOATS))
        if rng.random() < 0.5:
            new = struct.pack(order + "I", rng.choice((0x7FC00000, 0x7F800000, 0xFFFFFFFF)))
    else:
        size = rng.choice((1, 2, 4, 4, 8))
        value = rng.choice(_INTEGERS) % (1 << 8 * size)
        new = value.to_bytes(size, "little" if order == "<" else "big")
    return data[:at] + new + data[at + len(new) :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start = _place(rng, data)
    part = data[start : start + rng.randrange(1, 60)]
    return data[:start] + part * rng.choice((2, 3, 20)) + data[start + len(part) :]


def _lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    if rng.random() < 0.3:
        del lines[first]
    elif rng.random() < 0.5:
        lines.insert(first, lines[second])
    else:
        lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


_MUTATORS: tuple[Mutator, ...] = (
    _flip, _overwrite, _insert, _delete, _truncate, _number_as_text, _number_as_text, _number,
    _number, _repeat, _lines,
)  # fmt: skip


def mutate(
    rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]
) -> bytes:
    """Return a changed copy of a file.

    Args:
        rng: Source of randomness.
        data: A valid file.
        others: Further files, of which parts may be taken.
        words: Words of the format, which may take the place of others.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        kind = rng.random()
        if kind < 0.06:
            other = rng.choice(others)
            data = data[: _place(rng, data)] + other[_place(rng, other) :]
        elif kind < 0.16 and words:
            data = _word(rng, data, words)
        else:
            data = rng.choice(_MUTATORS)(rng, data)
    return data


def _word(rng: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    present = [word for word in words if word in data]
    new = rng.choice(words)
    if present and rng.random() < 0.7:
        return data.replace(rng.choice(present), new, 1)
    at = _place(rng, data)
    return data[:at] + new + data[at:]
