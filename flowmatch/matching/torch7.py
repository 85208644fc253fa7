"""Torch7's binary files (.t7), read without running anything that is in them.

Reference:
    The format is that of File.lua and the serialisation of tensors and storages in torch7.
"""

import math
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Torch7 nests a model's modules in tables; nothing honest comes near this.
_DEEPEST = 100

_STORAGES: dict[str, np.dtype[Any]] = {
    "Double": np.dtype("<f8"), "Float": np.dtype("<f4"), "Half": np.dtype("<f2"),
    "Long": np.dtype("<i8"), "Int": np.dtype("<i4"), "Short": np.dtype("<i2"),
    "Char": np.dtype("i1"), "Byte": np.dtype("u1"),
    # On disk a GPU's tensors are like a CPU's.
    "CudaDouble": np.dtype("<f8"), "Cuda": np.dtype("<f4"), "CudaHalf": np.dtype("<f2"),
    "CudaLong": np.dtype("<i8"), "CudaInt": np.dtype("<i4"),
}  # fmt: skip

_NIL, _NUMBER, _STRING, _TABLE, _OBJECT, _BOOLEAN = range(6)
_FUNCTIONS = {6: False, 7: True, 8: True}  # kind -> whether an index comes first


class TorchObject(NamedTuple):
    """An object of a Lua class: its name, such as ``nn.Linear``, and its fields."""

    name: str
    fields: Any


class _Reader:
    """Reads one object after another; each takes bytes, so that memory is bounded by the file."""

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self.place = 0
        self.known: dict[int, Any] = {}

    def take(self, count: int) -> memoryview:
        left = len(self.data) - self.place
        if not 0 <= count <= left:
            raise ValueError(f"expected {count} more bytes at {self.place}, there are {left}")
        self.place += count
        return self.data[self.place - count : self.place]

    def integer(self) -> int:
        return int.from_bytes(self.take(4), "little", signed=True)

    def longs(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}q", self.take(8 * count))

    def text(self) -> str:
        return bytes(self.take(self.integer())).decode("latin-1")

    def value(self, depth: int = 0) -> Any:
        if depth > _DEEPEST:
            raise ValueError(f"expected at most {_DEEPEST} nested tables, there are more")
        kind = self.integer()
        if kind == _NIL:
            return None
        if kind == _NUMBER:
            return struct.unpack("<d", self.take(8))[0]
        if kind == _STRING:
            return self.text()
        if kind == _BOOLEAN:
            return self.integer() != 0
        if kind in _FUNCTIONS:
            return self.function(_FUNCTIONS[kind], depth)
        if kind not in (_TABLE, _OBJECT):
            raise ValueError(f"expected a kind from 0 to 8 at {self.place - 4}, got {kind}")
        index = self.integer()
        if index not in self.known:
            # What refers to itself finds nothing, which no network needs.
            self.known[index] = None
            read = self.table if kind == _TABLE else self.object
            self.known[index] = read(depth + 1)
        return self.known[index]

    def function(self, indexed: bool, depth: int) -> None:
        """Skip over compiled Lua and its upvalues."""
        if indexed:
            index = self.integer()
            if index in self.known:
                return
            self.known[index] = None
        self.take(self.integer())
        self.value(depth + 1)

    def table(self, depth: int) -> dict[Any, Any]:
        table: dict[Any, Any] = {}
        for _ in range(self.integer()):
            key, value = self.value(depth), self.value(depth)
            if isinstance(key, bool | float | str):
                table[key] = value
        return table

    def object(self, depth: int) -> Any:
        name = self.text()
        if name.startswith("V "):  # a version comes before the name, but in very old files
            name = self.text()
        library, _, kind = name.partition(".")
        dtype = _STORAGES.get(kind.removesuffix("Storage").removesuffix("Tensor"))
        if library == "torch" and dtype is not None:
            return self.storage(dtype) if kind.endswith("Storage") else self.tensor(depth)
        return TorchObject(name, self.value(depth))

    def storage(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        (count,) = self.longs(1)
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)

    def tensor(self, depth: int) -> NDArray[Any]:
        dimensions = self.integer()
        shape, strides = self.longs(max(0, dimensions)), self.longs(max(0, dimensions))
        offset = self.longs(1)[0] - 1  # Lua counts from 1
        storage = self.value(depth)
        if storage is None or not shape:
            return np.empty(0, np.float32)
        if not isinstance(storage, np.ndarray) or storage.ndim != 1:
            raise ValueError(f"expected the storage of a tensor, got {type(storage).__name__}")
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        # With a stride of 0 a few bytes could claim to be any number of elements.
        fits = min(shape) > 0 and min(strides) >= 0 and 0 <= offset <= last < storage.size
        if not fits or math.prod(shape) > storage.size or len(shape) > 8:
            raise ValueError(
                f"a tensor {shape} with strides {strides} at {offset} does not fit into "
                f"the {storage.size} elements that are stored"
            )
        steps = [stride * storage.itemsize for stride in strides]
        # A view: many tensors of one large storage would be copied to more than the file holds.
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def parse_t7(data: bytes) -> Any:
    r"""Read the value in the bytes of a binary .t7 file.

    Args:
        data: The whole file.

    Returns:
        None, float, str, bool, dict for a table, array for a tensor or storage, `TorchObject` for
        anything else; functions are left out.

    Raises:
        ValueError: It is no such file, or damaged.

    Example:
        >>> parse_t7(b"\x01\x00\x00\x00" + struct.pack("<d", 2.5))
        2.5
    """
    return _Reader(data).value()
