"""Options and output of all export commands."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._messages import messages
from flowmatch.cli._options import MODEL, OUTPUT
from flowmatch.export import ExportReport

OnnxFile = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        help="File to write, .onnx.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
WeightType = Annotated[
    str,
    typer.Option(
        "--precision", help="Type of the weights: float32 or float16.", rich_help_panel=MODEL
    ),
]


def print_report(report: ExportReport, unit: str) -> None:
    """Print the inputs and outputs of a file, and how it compares with PyTorch.

    Args:
        report: What was written.
        unit: Unit of the output, with a space before it, or nothing.
    """
    shapes = ", ".join(
        f"{name} [{', '.join(map(str, shape))}]"
        for name, shape in {**report.inputs, **report.outputs}.items()
    )
    size = report.path.stat().st_size / 1e6
    messages.print(f"{report.model} in {report.path}, {size:.1f} MB: {shapes}")
    if report.seconds is None or report.torch_seconds is None:
        messages.print("not compared with PyTorch: pip install onnxruntime")
        return
    messages.print(
        f"ONNX Runtime differs from PyTorch by at most {report.difference:.1e}{unit}; on the CPU "
        f"it takes {1000 * report.seconds:.0f} ms, PyTorch with flowmatch's kernels "
        f"{1000 * report.torch_seconds:.0f} ms"
    )
