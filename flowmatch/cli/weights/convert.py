"""``flowmatch weights convert``: published checkpoints of flow networks."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from flowmatch.cli._messages import messages
from flowmatch.cli._options import OUTPUT, check_target
from flowmatch.flow.external import convert_checkpoint

EXAMPLES = (
    "flowmatch weights convert raft-things.pth -o raft.safetensors",
    "flowmatch weights convert flownets_from_caffe.pth -o flownets.safetensors --bgr",
)


def command(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Published checkpoint: .pth, .tar or another file of torch.save, or .safetensors.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="File to write, .safetensors.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ],
    float32: Annotated[
        bool,
        typer.Option(
            "--float32",
            help="Weights in float32, twice the size of float16.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    bgr: Annotated[
        bool,
        typer.Option(
            "--bgr", help="Weights that expect blue first, such as those converted from Caffe."
        ),
    ] = False,
) -> None:
    """Convert a published checkpoint of a flow network.

    The result is a file for flowmatch flow --weights. Known by their keys are FlowNetS and
    FlowNetC of FlowNetPytorch, FlowNet2 and its parts (C, S, SD, CS, CSS) of NVIDIA, and RAFT of
    Princeton and of torchvision. No code in the checkpoint is executed.
    """
    check_target(output)
    dtype = torch.float32 if float32 else torch.float16
    result = convert_checkpoint(checkpoint, output, bgr=bgr, dtype=dtype)
    messages.print(f"{result.source}, as {result.name}, in {output}")
