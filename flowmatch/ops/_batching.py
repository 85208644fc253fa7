"""Support for `torch.vmap`: the mapped dimension is folded into the batch dimension."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def map_over_batch(op: str) -> None:
    """Register `torch.vmap` for an op whose tensors all have the batch as their first dimension.

    Args:
        op: Name of the op, such as ``"flowmatch::correlation"``. Its arguments may be tensors,
            lists of tensors, None or plain values; it returns one tensor or several.
    """
    namespace, name = op.split("::")
    overload = getattr(getattr(torch.ops, namespace), name).default

    def mapped(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        size = info.batch_size
        folded = [_fold(value, dim, size) for value, dim in zip(arguments, in_dims, strict=True)]
        pairs = zip(arguments, in_dims, strict=True)
        batch = next(_batch(value, dim) for value, dim in pairs if isinstance(value, Tensor))
        return _unfold(overload(*folded), size, batch)

    register: Callable[..., Any] = torch.library.register_vmap
    register(op, mapped)


def _fold(value: Any, dim: Any, size: int) -> Any:
    if isinstance(value, Tensor):
        front = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
        return front.flatten(0, 1)
    if isinstance(value, Sequence) and value and isinstance(value[0], Tensor):
        dims = dim if isinstance(dim, Sequence) else [dim] * len(value)
        return [_fold(item, axis, size) for item, axis in zip(value, dims, strict=True)]
    return value


def _batch(value: Tensor, dim: int | None) -> int:
    """Return the size of the batch dimension, the first one beside the mapped dimension."""
    return value.shape[1 if dim == 0 else 0]


def _unfold(output: Any, size: int, batch: int) -> tuple[Any, Any]:
    if isinstance(output, Tensor):
        return output.reshape(size, batch, *output.shape[1:]), 0
    parts = tuple(_unfold(item, size, batch)[0] for item in output)
    return parts, (0,) * len(parts)
