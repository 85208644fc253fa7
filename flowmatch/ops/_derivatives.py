"""Derivatives of the ops in reverse and forward mode, also under the transforms of `torch.func`.

`torch.library.register_autograd` registers reverse mode only: forward-mode derivatives of such an
op are zero without an error, and most transforms of `torch.func` refuse it. Therefore the ops have
a kernel of their own at the dispatcher's Autograd key. It runs below `torch.compile` and export,
and once for each level of nested transforms.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled, unpack_dual
from torch.autograd.function import _SingleLevelFunction

Saved = list[Tensor]  # tensors that `save` kept

# The kernels exist as long as this object.
_library = torch.library.Library("flowmatch", "FRAGMENT")  # type: ignore[no-untyped-call]


def register_derivatives(
    name: str,
    setup: Callable[[Any, tuple[Any, ...], Any], None],
    backward: Callable[..., tuple[Tensor | None, ...]],
    jvp: Callable[..., Any],
) -> None:
    """Register the derivatives of ``flowmatch::name``.

    The formulas consist of differentiable operations, so that derivatives of any order exist.

    Args:
        name: Name of the op. Its results are not lists of tensors. Of an argument that is a list
            each tensor counts as an input of its own in `backward` and `jvp`.
        setup: ``setup(ctx, inputs, output)`` saves what the formulas need (`save`).
        backward: ``backward(ctx, *gradients)`` returns the gradients of all inputs.
        jvp: ``jvp(ctx, saved, *tangents)`` gets the saved tensors and the tangents of all inputs,
            None for zero, and returns those of the outputs.
    """
    overload = getattr(torch.ops.flowmatch, name).default
    defaults = [argument.default_value for argument in overload._schema.arguments]

    def forward(ctx: Any, *inputs: Any) -> Any:
        *values, (lengths, keys, has_reverse, has_forward) = inputs
        arguments = _nested(values, lengths)
        # Function.apply() disables derivatives; transforms at lower levels still need them.
        with (
            torch._C._AutoDispatchBelowAutograd(),
            torch.set_grad_enabled(has_reverse),
            _set_fwd_grad_enabled(has_forward),
        ):
            output = overload.redispatch(keys & torch._C._after_autograd_keyset, *arguments)
        setup(ctx, tuple(arguments), output)
        return output

    def forward_mode(ctx: Any, *tangents: Any) -> Any:
        # Autograd disables tangents here, which transforms at lower levels still need. Those of
        # this level are removed instead.
        saved = [unpack_dual(t, level=0).primal for t in ctx.saved_tensors]  # type: ignore[no-untyped-call]
        with _set_fwd_grad_enabled(True):
            return jvp(ctx, saved, *tangents[:-1])

    function: Any = type(
        f"FlowmatchBackward_{name}",
        (_SingleLevelFunction,),
        {
            "forward": staticmethod(forward),
            "backward": staticmethod(lambda ctx, *gradients: (*backward(ctx, *gradients), None)),
            "jvp": staticmethod(forward_mode),
        },
    )

    def kernel(keys: torch._C.DispatchKeySet, *inputs: Any) -> Any:
        inputs = (*inputs, *defaults[len(inputs) :])  # the dispatcher removes default values
        values, lengths = _flat(inputs)
        modes = (lengths, keys, torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled())
        with enable_single_level_autograd_function():
            return function.apply(*values, modes)

    _library.impl(name, kernel, "Autograd", with_keyset=True)  # type: ignore[no-untyped-call]


def _flat(arguments: Sequence[Any]) -> tuple[list[Any], list[int | None]]:
    """Return the arguments with lists of tensors replaced by their items, and their lengths.

    Autograd sees tensors that are arguments themselves only. The length of other arguments is None.
    """
    is_list = [isinstance(a, list) and bool(a) and isinstance(a[0], Tensor) for a in arguments]
    pairs = list(zip(arguments, is_list, strict=True))
    values = [item for a, several in pairs for item in (a if several else [a])]
    return values, [len(a) if several else None for a, several in pairs]


def _nested(values: Sequence[Any], lengths: Sequence[int | None]) -> list[Any]:
    """Return the arguments that `_flat` was called with."""
    left = iter(values)
    return [next(left) if n is None else [next(left) for _ in range(n)] for n in lengths]


def save(ctx: Any, *tensors: Tensor) -> None:
    """Save tensors for both modes; reverse mode reads them from ``ctx.saved_tensors``."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def add(terms: Sequence[Tensor]) -> Tensor | None:
    """Return the sum of tensors, or None for no tensors, whose derivative is zero."""
    return reduce(torch.add, terms) if terms else None
