"""``flowmatch export flow``: a flow network as an ONNX file."""

from typing import Annotated

import typer

from flowmatch.cli._options import MODEL, ModelName, check_target
from flowmatch.cli.export._shared import OnnxFile, WeightType, print_report
from flowmatch.export import export_flow

EXAMPLES = (
    "flowmatch export flow -o flow.onnx --size 384x512",
    "flowmatch export flow -o raft.onnx --model raft-small --precision float16",
)


def command(
    output: OnnxFile,
    model: ModelName = "default",
    size: Annotated[
        str,
        typer.Option(
            help="Height and width of the images, such as 384x512, or dynamic for any.",
            rich_help_panel=MODEL,
        ),
    ] = "dynamic",
    batch: Annotated[int, typer.Option(min=1, help="Number of pairs.", rich_help_panel=MODEL)] = 1,
    precision: WeightType = "float32",
) -> None:
    """Write a flow network as an ONNX file of standard operators.

    The file takes two RGB images in [0, 1], pads them itself, and returns the flow in pixels, that
    of --quality fast. If onnxruntime is installed, the file is compared with PyTorch before it is
    given its name.
    """
    check_target(output, (".onnx",))
    report = export_flow(
        output, model=model, size=_parse_size(size), batch=batch, precision=precision
    )
    print_report(report, " px")


def _parse_size(text: str) -> tuple[int, int] | None:
    if text == "dynamic":
        return None
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size must be HxW, such as 384x512, or dynamic, got {text!r}")
    return int(height), int(width)
