"""``flowmatch export matching``: a descriptor network as an ONNX file."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._options import MODEL, OUTPUT, ModelName, check_target
from flowmatch.cli.export._report import print_report
from flowmatch.export import export_descriptor

EXAMPLES = (
    "flowmatch export matching -o hardnet.onnx",
    "flowmatch export matching -o hardnet.onnx --model hardnet-half",
)


def command(
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="File to write, .onnx.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ],
    model: ModelName = "default",
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Number of patches.", show_default="any", rich_help_panel=MODEL),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(help="Type of the weights: float32 or float16.", rich_help_panel=MODEL),
    ] = "float32",
) -> None:
    """Write a descriptor network as an ONNX file of standard operators.

    The file takes gray patches in [0, 1] and returns descriptors, which are compared by l2. If
    onnxruntime is installed, the file is compared with PyTorch before it is given its name.
    """
    check_target(output, (".onnx",))
    print_report(export_descriptor(output, model=model, batch=batch, precision=precision), "")
