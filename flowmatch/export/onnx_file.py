"""An ONNX file: written from a module, described by its metadata, checked by ONNX Runtime."""

import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowmatch import __version__
from flowmatch.export.decompositions import decompositions
from flowmatch.export.padding import pad_and_crop
from flowmatch.flow.networks.padding import pad_to_multiple
from flowmatch.io import replace_when_done

OPSET = 18
"""Version of ONNX's operators: the first with padding by axes and reductions by tensors."""
TYPES = {"float32": torch.float32, "float16": torch.float16}
"""Types of the weights of a file."""
LARGEST = 16384
"""Largest value of a free size."""
_FOLDED = 2**20  # largest constant that is computed when the file is written, in bytes


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares with PyTorch on the CPU.

    Attributes:
        path: The file.
        model: Name and hash of the file of weights, or the type of a given network.
        inputs: Shapes of the inputs by name; a word stands for a size that is free.
        outputs: Shapes of the outputs by name.
        difference: Largest difference between the output of ONNX Runtime and that of PyTorch, in
            the unit of the output; None if ONNX Runtime is not installed.
        seconds: Time of ONNX Runtime for the pair of the check.
        torch_seconds: Time of PyTorch, with the kernels of flowmatch, for the same pair.
    """

    path: Path
    model: str
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]
    difference: float | None = None
    seconds: float | None = None
    torch_seconds: float | None = None


@dataclass(frozen=True)
class Interface:
    """Names and sizes of the tensors that enter and leave a file.

    Attributes:
        inputs: Names of the inputs.
        input_shape: Shape of each of them; a word stands for a size that is free.
        output: Name of the output.
        output_shape: Its shape, in the same words.
        metadata: Texts that the file stores, such as units.
        tolerance: Largest difference from PyTorch in float32 that the check accepts.
        smallest: Smallest value of a free size.
        multiple: Number that divides the free sizes inside of the module, whose inputs are padded
            and whose output is cropped by the file; None leaves all of this to the module.
    """

    inputs: Sequence[str]
    input_shape: Sequence[int | str]
    output: str
    output_shape: Sequence[int | str]
    metadata: Mapping[str, str]
    tolerance: float
    smallest: int = 1
    multiple: int | None = None

    def free_sizes(self) -> dict[int, Any] | None:
        """Return the free sizes by axis, as `torch.export` takes them."""
        result = {}
        for axis, word in enumerate(self.input_shape):
            if isinstance(word, str) and self.multiple is None:
                result[axis] = torch.export.Dim(word, min=self.smallest, max=LARGEST)
            elif isinstance(word, str) and self.multiple is not None:
                steps = torch.export.Dim(f"_{word}", min=1, max=LARGEST // self.multiple)
                result[axis] = self.multiple * steps
        return result or None


def require_onnx() -> None:
    """Raise ImportError, with the command that installs them, unless ONNX's packages are there."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the export to ONNX needs {error.name}, which is not installed: "
            "pip install 'flowmatch[onnx]'"
        ) from error


def check_type(precision: str) -> torch.dtype:
    """Return the type of the weights; raise ValueError if it is none of `TYPES`."""
    if precision not in TYPES:
        raise ValueError(f"precision must be one of {', '.join(TYPES)}, got {precision!r}")
    return TYPES[precision]


def write_onnx(
    path: Path,
    module: nn.Module,
    examples: Sequence[Tensor],
    interface: Interface,
    *,
    model: str,
    reference: nn.Module,
) -> ExportReport:
    """Write a module as an ONNX file, and compare it with another module.

    Args:
        path: File to write, ``.onnx``; it appears only after the check.
        module: The module, in eval mode.
        examples: Its inputs; sizes that are not free are those of the file.
        interface: Names and sizes.
        model: Name of the weights.
        reference: What the file must compute, in float32.

    Raises:
        ValueError: The file differs from `reference` by more than the tolerance.
    """
    program = _convert(module, examples, interface)
    graph = program.model.graph
    if interface.multiple is not None:
        pad_and_crop(graph, interface.multiple)
    _name(graph, interface)
    texts = {"model": model, "flowmatch": __version__, **interface.metadata}
    program.model.metadata_props.update(texts)
    with replace_when_done(path) as temporary:
        program.save(temporary, include_initializers=True)
        checked = _check(temporary, path, reference, examples, interface)
    inputs = {name: tuple(interface.input_shape) for name in interface.inputs}
    outputs = {interface.output: tuple(interface.output_shape)}
    return ExportReport(path, model, inputs, outputs, *checked)


def _convert(module: nn.Module, examples: Sequence[Tensor], interface: Interface) -> Any:
    """Return the program of a module: standard operators only."""
    from onnxscript.optimizer import optimize_ir

    free = interface.free_sizes()
    if interface.multiple is not None:
        examples = [pad_to_multiple(x, interface.multiple) for x in examples]
    with _without_warnings():
        program = torch.export.export(
            module,
            tuple(examples),
            dynamic_shapes=tuple(free for _ in examples),
            # Sizes are rounded up to strides, which its solver cannot prove consistent.
            prefer_deferred_runtime_asserts_over_guards=True,
        ).run_decompositions(decompositions())
        result: Any = torch.onnx.export(program, opset_version=OPSET, dynamo=True, verbose=False)
    # Weights that a network rearranges become constants, which OpenCV requires.
    optimize_ir(result.model, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
    return result


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the warnings of torch about its own exporter."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name(graph: Any, interface: Interface) -> None:
    """Give inputs and output their names and shapes."""
    from onnx_ir import Shape

    for value, name in zip(graph.inputs, interface.inputs, strict=True):
        value.name, value.shape = name, Shape(interface.input_shape)
    graph.outputs[0].name = interface.output
    graph.outputs[0].shape = Shape(interface.output_shape)


def _check(
    path: Path, name: Path, reference: nn.Module, examples: Sequence[Tensor], interface: Interface
) -> tuple[float | None, float | None, float | None]:
    """Return the largest difference from PyTorch, and the times of both."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None, None, None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {key: x.numpy() for key, x in zip(interface.inputs, examples, strict=True)}
    seconds = []
    for run in (lambda: session.run(None, feed)[0], lambda: _run(reference, examples)):
        run()  # warm-up
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 1:
            ours = torch.from_numpy(result)
    difference = (ours - result).abs().max().item()
    if not difference <= interface.tolerance:
        raise ValueError(
            f"{name} was not written: ONNX Runtime differs from PyTorch by {difference:.2g}, more "
            f"than {interface.tolerance:g}"
        )
    return difference, seconds[0], seconds[1]


def _run(module: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    with torch.no_grad():
        result: Tensor = module(*inputs)
    return result
