"""Measure implementations of one thing against each other: interleaved, medians, checked first."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Implementation:
    """One way to compute a case.

    Attributes:
        name: ``flowmatch``, ``reference``, a package's name, or ``torch: <idiom>``.
        run: Takes the case's inputs, returns its output.
    """

    name: str
    run: Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One problem, of one size, and the ways to solve it.

    Attributes:
        op: What is computed.
        name: Which size of it.
        inputs: The tensors it is computed from.
        flops: Nominal floating-point operations of the forward pass; backward counts twice.
        truth: What the others are compared with: a plain reference, run in float64 on the first
            item of the batch.
        implementations: Ours first.
    """

    op: str
    name: str
    inputs: tuple[Tensor, ...]
    flops: float
    truth: Callable[..., Tensor]
    implementations: tuple[Implementation, ...]


@dataclass(frozen=True)
class Row:
    """One measured figure."""

    op: str
    case: str
    passes: str  # "forward" or "forward+backward"
    implementation: str
    device: str
    dtype: str
    threads: int
    median_ms: float
    spread: float  # interquartile range / median
    gflops: float
    ceiling_fraction: float  # of the machine's matrix product
    agrees: bool

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict, ``passes`` under the name ``pass``."""
        plain = asdict(self)
        plain["pass"] = plain.pop("passes")
        return plain


# What may separate a result from the float64 truth: relative, and absolute.
_TOLERANCE = {
    torch.float64: (1e-9, 1e-11),
    torch.float32: (1e-4, 1e-5),
    torch.float16: (1e-2, 2e-3),
    torch.bfloat16: (2e-2, 2e-2),
}


def measure_ceilings(
    device: torch.device, dtype: torch.dtype = torch.float32, size: int = 2048
) -> dict[str, float]:
    """Return what the machine can do: ``gflops`` of a product, ``gbytes``/s of a copy."""
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
        yield [
            row
            for backward in (False, True)
            for row in _measure(case, backward, ceiling_gflops, rounds)
        ]


def _measure(case: Case, backward: bool, ceiling: float, rounds: int) -> Iterator[Row]:
    inputs = tuple(t.detach().requires_grad_(backward) for t in case.inputs)
    device = inputs[0].device
    relative, absolute = _TOLERANCE[inputs[0].dtype]
    one = tuple(t.detach()[:1].double().requires_grad_(backward) for t in inputs)
    expected = _once(Implementation("truth", case.truth), one, backward)
    times: dict[str, list[float]] = {}
    agrees: dict[str, bool] = {}
    for implementation in case.implementations:
        found = _once(implementation, inputs, backward)
        agrees[implementation.name] = all(
            torch.allclose(a[:1].double(), b, relative, absolute)
            for a, b in zip(found, expected, strict=True)
        )
        times[implementation.name] = []
    for _ in range(rounds):  # interleaved: a disturbance hits all of them
        for implementation in case.implementations:
            run = lambda i=implementation: _once(i, inputs, backward)  # noqa: E731
            times[implementation.name] += _times(run, device, 1, warm=False)
    flops = case.flops * (3 if backward else 1)
    for name, seconds in times.items():
        median = statistics.median(seconds)
        quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [median] * 3
        yield Row(
            op=case.op,
            case=case.name,
            passes="forward+backward" if backward else "forward",
            implementation=name,
            device=str(device),
            dtype=str(inputs[0].dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            median_ms=1e3 * median,
            spread=(quartiles[2] - quartiles[0]) / median,
            gflops=1e-9 * flops / median,
            ceiling_fraction=1e-9 * flops / median / ceiling,
            agrees=agrees[name],
        )


def _once(
    implementation: Implementation, inputs: Sequence[Tensor], backward: bool
) -> tuple[Tensor, ...]:
    output = implementation.run(*inputs)
    if not backward:
        return (output,)
    grads = torch.autograd.grad(output, inputs, torch.ones_like(output))
    return (output.detach(), *grads)


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
