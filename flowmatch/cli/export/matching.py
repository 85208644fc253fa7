"""``flowmatch export matching``: a descriptor network as an ONNX file."""

from typing import Annotated

import typer

from flowmatch.cli._options import MODEL, ModelName, check_target
from flowmatch.cli.export._shared import OnnxFile, WeightType, print_report
from flowmatch.export import export_descriptor

EXAMPLES = (
    "flowmatch export matching -o hardnet.onnx",
    "flowmatch export matching -o hardnet.onnx --model hardnet-half",
)


def command(
    output: OnnxFile,
    model: ModelName = "default",
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Number of patches.", show_default="any", rich_help_panel=MODEL),
    ] = None,
    precision: WeightType = "float32",
) -> None:
    """Write a descriptor network as an ONNX file of standard operators.

    The file takes gray patches in [0, 1] and returns descriptors, which are compared by l2. If
    onnxruntime is installed, the file is compared with PyTorch before it is given its name.
    """
    check_target(output, (".onnx",))
    print_report(export_descriptor(output, model=model, batch=batch, precision=precision), "")
