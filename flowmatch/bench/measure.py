"""Side-by-side measurement of implementations: checked first, interleaved, medians."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from flowmatch.devices import PeakMemory

if sys.platform != "win32":
    import resource

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Implementation:
    """An implementation of an operator.

    Attributes:
        name: ``flowmatch``, ``reference``, the name of a package, or ``torch: <idiom>``.
        run: Function from the case's inputs to its output or outputs.
        differentiable: Whether the backward pass is measured, too.
    """

    name: str
    run: Callable[..., Tensor | Tensors]
    differentiable: bool = True


@dataclass(frozen=True)
class Case:
    """A problem of one size, and the implementations that solve it.

    Attributes:
        op: Name of the operator.
        name: Name of the size.
        inputs: Input tensors.
        flops: Nominal floating-point operations of the forward pass, of which the backward pass
            has twice as many; 0 if the operator is not measured by them.
        truth: Reference that checks the others, run in float64 on the first rows of the inputs. Its
            result is compared with the same corner of the others' outputs.
        implementations: Implementations to measure, ours first.
        heads: Number of first rows of each input for `truth`, None for all; by default one item of
            the batch.
        backward: Whether gradients of the floating-point inputs are measured, too.
        tolerance: Relative and absolute tolerance; by default that of the type of the inputs.
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
class Suite:
    """The benchmark of one operator.

    Attributes:
        build: Builds a case: ``build(name, shape, device, dtype)``.
        dimensions: Names of the numbers in a shape, such as ``"B,N,M,D"``.
        shapes: Default shapes, by the name of the case.
    """

    build: Callable[[str, tuple[int, ...], torch.device, torch.dtype], Case]
    dimensions: str
    shapes: Mapping[str, tuple[int, ...]]

    def cases(
        self,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> list[Case]:
        """Return the cases of all shapes.

        Args:
            device: Device to compute on.
            dtype: Float type of the inputs.
            shapes: Shapes by the name of the case, instead of the default ones.
        """
        sizes = self.shapes if shapes is None else shapes
        return [self.build(name, shape, device, dtype) for name, shape in sizes.items()]


@dataclass(frozen=True)
class Row:
    """The measurement of one implementation on one case.

    Attributes:
        op: Name of the operator.
        case: Name of the size.
        passes: ``"forward"`` or ``"forward+backward"``.
        implementation: Name of the implementation.
        device: Device, such as ``"cpu"``.
        dtype: Type of the inputs, such as ``"float32"``.
        threads: Number of CPU threads.
        median_ms: Median time, milliseconds.
        spread: Interquartile range of the times, divided by the median.
        rounds: Number of times measured.
        gflops: Nominal GFLOP/s; None if the operator is not measured by them.
        ceiling_fraction: GFLOP/s divided by those of the machine's matrix product, or None.
        intensity: Operations per byte of inputs and outputs, or None.
        peak_mb: Peak memory beyond the inputs, including the results; None if unknown.
        agrees: Whether the result agrees with the float64 reference.
        system_ms: Median time of the operating system, milliseconds, added over all threads: mostly
            that of page faults, where memory is used for the first time. None if unknown.
    """

    op: str
    case: str
    passes: str
    implementation: str
    device: str
    dtype: str
    threads: int
    median_ms: float
    spread: float
    rounds: int
    gflops: float | None
    ceiling_fraction: float | None
    intensity: float | None
    peak_mb: float | None
    agrees: bool
    system_ms: float | None = None

    @property
    def noisy(self) -> bool:
        """Whether the spread is so large that the median means little."""
        return self.spread > NOISY

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict, with ``passes`` renamed to ``pass``."""
        plain = asdict(self)
        plain["pass"] = plain.pop("passes")
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Row":
        """Create a row from the dict of `to_json`."""
        fields = dict(plain)
        fields["passes"] = fields.pop("pass")
        return cls(**fields)


NOISY = 0.15  # spread
# Relative and absolute tolerances against the float64 reference.
_TOLERANCE = {
    torch.float64: (1e-9, 1e-11),
    torch.float32: (1e-4, 1e-5),
    torch.float16: (1e-2, 2e-3),
    torch.bfloat16: (2e-2, 2e-2),
}
# Seconds after which an implementation is not measured again.
_BUDGET = 20.0
# Seconds of pause before each measurement, in which threads of the previous library stop spinning.
_PAUSE = 0.05


def measure_ceilings(
    device: torch.device, dtype: torch.dtype = torch.float32, size: int | None = None
) -> dict[str, float]:
    """Measure the machine's limits: ``gflops`` of a matrix product, ``gbytes``/s of a copy.

    Args:
        device: Device to measure.
        dtype: Type of the matrices.
        size: Side of the square matrices; by default 2048, on a GPU 8192 for full utilisation.
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
    """Measure the cases; yield the rows of each, ours first in each pass."""
    for case in cases:
        passes = (False, True) if case.backward else (False,)
        yield [
            row for backward in passes for row in _measure(case, backward, ceiling_gflops, rounds)
        ]


@dataclass
class _Measurement:
    """Measurements of one implementation so far."""

    agrees: bool
    peak_mb: float | None
    output_bytes: int
    seconds: list[float]
    system: list[float]


def _measure(case: Case, backward: bool, ceiling: float, rounds: int) -> Iterator[Row]:
    inputs = _detached(case.inputs, backward)
    device, first = inputs[0].device, inputs[0]
    expected = _expected(case, backward)
    measurements: dict[str, _Measurement] = {}
    measured = [i for i in case.implementations if i.differentiable or not backward]
    for implementation in measured:
        output, peak = _first_run(implementation.run, inputs, backward, device)
        measurements[implementation.name] = _Measurement(
            _agree(output, expected, case.tolerance or _TOLERANCE[_float_type(inputs)]),
            peak,
            sum(t.nbytes for t in output),
            [],
            [],
        )
        del output
    for _ in range(rounds):  # interleaved, so that a disturbance affects all of them
        for implementation in measured:
            seconds = measurements[implementation.name].seconds
            if sum(seconds) > _BUDGET:
                continue
            time.sleep(_PAUSE)
            run = lambda i=implementation: _run(i.run, inputs, backward)  # noqa: E731
            before = _system_seconds()
            seconds += _times(run, device, 1, warm=False)
            measurements[implementation.name].system.append(_system_seconds() - before)
    flops = case.flops * (3 if backward else 1)
    ours = measurements[case.implementations[0].name]
    traffic = sum(t.nbytes for t in inputs) + ours.output_bytes
    for name, result in measurements.items():
        median = statistics.median(result.seconds)
        several = len(result.seconds) > 1
        quartiles = statistics.quantiles(result.seconds, n=4) if several else [median] * 3
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
            rounds=len(result.seconds),
            gflops=1e-9 * flops / median if flops else None,
            ceiling_fraction=1e-9 * flops / median / ceiling if flops else None,
            intensity=flops / traffic if flops else None,
            peak_mb=result.peak_mb,
            agrees=result.agrees,
            system_ms=1e3 * statistics.median(result.system) if sys.platform != "win32" else None,
        )


def _system_seconds() -> float:
    """Return the time that the operating system has spent for this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_stime if sys.platform != "win32" else 0.0


def _first_run(
    run: Callable[..., Tensor | Tensors], inputs: Tensors, backward: bool, device: torch.device
) -> tuple[Tensors, float | None]:
    """Return output and peak memory; of two runs if they are fast, as the first loads libraries."""
    started, peaks = time.perf_counter(), []
    for _ in range(2):
        peak = PeakMemory(device)
        output = _run(run, inputs, backward)
        peaks.append(peak.megabytes())
        if time.perf_counter() - started > 2:
            break
    known = [p for p in peaks if p is not None]
    return output, min(known) if known else None


def _detached(inputs: Sequence[Tensor], backward: bool) -> Tensors:
    return tuple(t.detach().requires_grad_(backward and t.is_floating_point()) for t in inputs)


def _float_type(inputs: Tensors) -> torch.dtype:
    return next((t.dtype for t in inputs if t.is_floating_point()), torch.float64)


def _expected(case: Case, backward: bool) -> Tensors:
    heads = case.heads or (1,) * len(case.inputs)
    parts = (t[:head] for t, head in zip(case.inputs, heads, strict=True))
    wide = [t.double() if t.is_floating_point() else t for t in parts]
    return _run(case.truth, _detached(wide, backward), backward)


def _agree(output: Tensors, expected: Tensors, tolerance: tuple[float, float]) -> bool:
    return all(
        torch.allclose(a[tuple(map(slice, b.shape))].double(), b.double(), *tolerance)
        for a, b in zip(output, expected, strict=True)
    )


def _run(function: Callable[..., Tensor | Tensors], inputs: Tensors, backward: bool) -> Tensors:
    output = function(*inputs)
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
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return seconds
