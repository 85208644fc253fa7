"""Reader of Torch7's binary files (.t7), which executes nothing in them.

Reference:
    File.lua and the serialisation of tensors and storages in torch7.
"""

import math
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAX_DEPTH = 100  # of nested tables; networks have far fewer

_STORAGES: dict[str, np.dtype[Any]] = {
    "Double": np.dtype("<f8"), "Float": np.dtype("<f4"), "Half": np.dtype("<f2"),
    "Long": np.dtype("<i8"), "Int": np.dtype("<i4"), "Short": np.dtype("<i2"),
    "Char": np.dtype("i1"), "Byte": np.dtype("u1"),
    # Tensors of a GPU are stored like those of a CPU.
    "CudaDouble": np.dtype("<f8"), "Cuda": np.dtype("<f4"), "CudaHalf": np.dtype("<f2"),
    "CudaLong": np.dtype("<i8"), "CudaInt": np.dtype("<i4"),
}  # fmt: skip

_NIL, _NUMBER, _STRING, _TABLE, _OBJECT, _BOOLEAN = range(6)
_FUNCTIONS = {6: False, 7: True, 8: True}  # type code -> whether an index precedes the data


class TorchObject(NamedTuple):
    """Object of a Lua class.

    Attributes:
        name: Name of the class, such as ``nn.Linear``.
        fields: Fields of the object.
    """

    name: str
    fields: Any


class _Reader:
    """Sequential reader; every object takes bytes, so that memory is bounded by the file."""

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self.position = 0
        self.known: dict[int, Any] = {}

    def take(self, count: int) -> memoryview:
        left = len(self.data) - self.position
        if not 0 <= count <= left:
            raise ValueError(f"expected {count} more bytes at {self.position}, {left} are left")
        self.position += count
        return self.data[self.position - count : self.position]

    def integer(self) -> int:
        return int.from_bytes(self.take(4), "little", signed=True)

    def longs(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}q", self.take(8 * count))

    def text(self) -> str:
        return bytes(self.take(self.integer())).decode("latin-1")

    def value(self, depth: int = 0) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError(f"expected at most {_MAX_DEPTH} nested tables, got more")
        code = self.integer()
        if code == _NIL:
            return None
        if code == _NUMBER:
            return struct.unpack("<d", self.take(8))[0]
        if code == _STRING:
            return self.text()
        if code == _BOOLEAN:
            return self.integer() != 0
        if code in _FUNCTIONS:
            return self.function(_FUNCTIONS[code], depth)
        if code not in (_TABLE, _OBJECT):
            raise ValueError(f"expected a type code from 0 to 8 at {self.position - 4}, got {code}")
        index = self.integer()
        if index not in self.known:
            # A reference to itself inside an object reads as None; networks have none.
            self.known[index] = None
            read = self.table if code == _TABLE else self.object
            self.known[index] = read(depth + 1)
        return self.known[index]

    def function(self, indexed: bool, depth: int) -> None:
        """Skip compiled Lua code and its upvalues."""
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
        if name.startswith("V "):  # the version, which very old files lack; the name follows
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
        # With a stride of 0, a few bytes could pass for any number of elements.
        fits = min(shape) > 0 and min(strides) >= 0 and 0 <= offset <= last < storage.size
        if not fits or math.prod(shape) > storage.size or len(shape) > 8:
            raise ValueError(
                f"a tensor {shape} with strides {strides} at {offset} does not fit into "
                f"its storage of {storage.size} elements"
            )
        steps = [stride * storage.itemsize for stride in strides]
        # A view, because copies of many tensors of one storage could exceed the size of the file.
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def parse_t7(data: bytes) -> Any:
    r"""Parse the value in a binary .t7 file.

    Args:
        data: Content of the file.

    Returns:
        None, float, str, bool, dict for a table, array for a tensor or storage, `TorchObject` for
        any other object; functions are skipped.

    Raises:
        ValueError: The data is damaged, or not a .t7 file.

    Example:
        >>> parse_t7(b"\x01\x00\x00\x00" + struct.pack("<d", 2.5))
        2.5
    """
    return _Reader(data).value()
