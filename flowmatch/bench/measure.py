"""Measure implementations of one thing against each other: interleaved, medians, checked first."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from flowmatch.devices import PeakMemory

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Implementation:
    """One way to compute a case.

    Attributes:
        name: ``flowmatch``, ``reference``, a package's name, or ``torch: <idiom>``.
        run: Takes the case's inputs, returns its output, or several.
        differentiable: Whether it takes part in the backward pass.
    """

    name: str
    run: Callable[..., Tensor | Tensors]
    differentiable: bool = True


@dataclass(frozen=True)
class Case:
    """One problem, of one size, and the ways to solve it.

    Attributes:
        op: What is computed.
        name: Which size of it.
        inputs: The tensors it is computed from.
        flops: Nominal floating-point operations of the forward pass, backward counts twice; 0
            where they are not what is computed.
        truth: What the others are compared with: a plain reference, run in float64 on the heads
            of the inputs; what it returns is compared with that corner of the others' outputs.
        implementations: Ours first.
        heads: How many leading rows of each input `truth` sees, None for all of them; one item of
            a batch, by default.
        backward: Whether gradients to the floating inputs are measured as well.
        tolerance: Relative and absolute; by default what the type of the first input allows.
    """

    op: str
    name: str
    inputs: Tensors
    flops: float
    truth: Callable[..., Tensor | Tensors]
    implementations: tuple[Implementation, ...]
    heads: tuple[int | None, ...] | None = None
    backward: bool = True
    tolerance: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    """One measured figure; those that cannot be had are None."""

    op: str
    case: str
    passes: str  # "forward" or "forward+backward"
    implementation: str
    device: str
    dtype: str
    threads: int
    median_ms: float
    spread: float  # interquartile range / median
    rounds: int  # measurements of which that is the median
    gflops: float | None
    ceiling_fraction: float | None  # of the machine's matrix product
    intensity: float | None  # flops for each byte of inputs and outputs
    peak_mb: float | None  # of memory beyond the inputs, results included
    agrees: bool

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict, ``passes`` under the name ``pass``."""
        plain = asdict(self)
        plain["pass"] = plain.pop("passes")
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Row":
        """Read what `to_json` wrote."""
        fields = dict(plain)
        fields["passes"] = fields.pop("pass")
        return cls(**fields)


# What may separate a result from the float64 truth: relative, and absolute.
_TOLERANCE = {
    torch.float64: (1e-9, 1e-11),
    torch.float32: (1e-4, 1e-5),
    torch.float16: (1e-2, 2e-3),
    torch.bfloat16: (2e-2, 2e-2),
}
# An implementation that has taken this many seconds is not measured again.
_BUDGET = 20.0
# Before each measurement: idle threads of the library that ran before spin for a while.
_PAUSE = 0.05


def measure_ceilings(
    device: torch.device, dtype: torch.dtype = torch.float32, size: int | None = None
) -> dict[str, float]:
    """Return what the machine can do: ``gflops`` of a product, ``gbytes``/s of a copy.

    Args:
        device: Which machine.
        dtype: Of the product.
        size: Of its square matrices; by default 2048, or 8192 on a GPU, which less does not fill.
    """
    size = size or (8192 if device.type == "cuda" else 2048)
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    product = statistics.median(_times(lambda: a @ b, device, 7))
    source = torch.zeros(64 * 2**20, device=device)
    target = torch.empty_like(source)
    copy = statistics.median(_times(lambda: target.copy_(source), device, 7))
    return {"gflops": 2e-9 * size**3 / product, "gbytes": 2e-9 * source.nbytes / copy}


def measure_all(
    cases: Sequence[Case], ceiling_gflops: float, rounds: int = 7
) -> Iterator[list[Row]]:
    """Measure each case; yield its rows, ours first in each pass."""
    for case in cases:
        passes = (False, True) if case.backward else (False,)
        yield [
            row for backward in passes for row in _measure(case, backward, ceiling_gflops, rounds)
        ]


@dataclass
class _Seen:
    """What is known of one implementation so far."""

    agrees: bool
    peak_mb: float | None
    output_bytes: int
    seconds: list[float]


def _measure(case: Case, backward: bool, ceiling: float, rounds: int) -> Iterator[Row]:
    inputs = _fresh(case.inputs, backward)
    device, first = inputs[0].device, inputs[0]
    expected = _expected(case, backward)
    seen: dict[str, _Seen] = {}
    taking_part = [i for i in case.implementations if i.differentiable or not backward]
    for implementation in taking_part:
        found, peak = _first(implementation.run, inputs, backward, device)
        seen[implementation.name] = _Seen(
            _agree(found, expected, case.tolerance or _TOLERANCE[_float_type(inputs)]),
            peak,
            sum(t.nbytes for t in found),
            [],
        )
        del found
    for _ in range(rounds):  # interleaved: a disturbance hits all of them
        for implementation in taking_part:
            seconds = seen[implementation.name].seconds
            if sum(seconds) > _BUDGET:
                continue
            time.sleep(_PAUSE)
            run = lambda i=implementation: _once(i.run, inputs, backward)  # noqa: E731
            seconds += _times(run, device, 1, warm=False)
    flops = case.flops * (3 if backward else 1)
    traffic = sum(t.nbytes for t in inputs) + seen[case.implementations[0].name].output_bytes
    for name, one in seen.items():
        median = statistics.median(one.seconds)
        several = len(one.seconds) > 1
        quartiles = statistics.quantiles(one.seconds, n=4) if several else [median] * 3
        yield Row(
            op=case.op,
            case=case.name,
            passes="forward+backward" if backward else "forward",
            implementation=name,
            device=str(device),
            dtype=str(first.dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            median_ms=1e3 * median,
            spread=(quartiles[2] - quartiles[0]) / median,
            rounds=len(one.seconds),
            gflops=1e-9 * flops / median if flops else None,
            ceiling_fraction=1e-9 * flops / median / ceiling if flops else None,
            intensity=flops / traffic if flops else None,
            peak_mb=one.peak_mb,
            agrees=one.agrees,
        )


def _first(
    run: Callable[..., Tensor | Tensors], inputs: Tensors, backward: bool, device: torch.device
) -> tuple[Tensors, float | None]:
    """Run for the result and the memory; twice, if that is quick, because the first run loads."""
    began, peaks = time.perf_counter(), []
    for _ in range(2):
        peak = PeakMemory(device)
        found = _once(run, inputs, backward)
        peaks.append(peak.megabytes())
        if time.perf_counter() - began > 2:
            break
    known = [p for p in peaks if p is not None]
    return found, min(known) if known else None


def _fresh(inputs: Sequence[Tensor], backward: bool) -> Tensors:
    return tuple(t.detach().requires_grad_(backward and t.is_floating_point()) for t in inputs)


def _float_type(inputs: Tensors) -> torch.dtype:
    return next((t.dtype for t in inputs if t.is_floating_point()), torch.float64)


def _expected(case: Case, backward: bool) -> Tensors:
    heads = case.heads or (1,) * len(case.inputs)
    parts = (t[:head] for t, head in zip(case.inputs, heads, strict=True))
    wide = [t.double() if t.is_floating_point() else t for t in parts]
    return _once(case.truth, _fresh(wide, backward), backward)


def _agree(found: Tensors, expected: Tensors, tolerance: tuple[float, float]) -> bool:
    return all(
        torch.allclose(a[tuple(map(slice, b.shape))].double(), b.double(), *tolerance)
        for a, b in zip(found, expected, strict=True)
    )


def _once(run: Callable[..., Tensor | Tensors], inputs: Tensors, backward: bool) -> Tensors:
    output = run(*inputs)
    outputs = output if isinstance(output, tuple) else (output,)
    if not backward:
        return outputs
    floats = [t for t in inputs if t.requires_grad]
    grads = torch.autograd.grad(outputs, floats, [torch.ones_like(o) for o in outputs])
    return (*(o.detach() for o in outputs), *grads)


def _times(
    run: Callable[[], Any], device: torch.device, count: int, warm: bool = True
) -> list[float]:
    if warm:
        run()
    seconds = []
    for _ in range(count):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return seconds
