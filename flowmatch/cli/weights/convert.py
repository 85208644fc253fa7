"""``flowmatch weights convert``: published checkpoints of flow networks."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from flowmatch.cli._messages import messages
from flowmatch.flow.external import convert_checkpoint


def command(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Checkpoint, .pth, .tar, ... or .safetensors.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write, .safetensors.")],
    float32: Annotated[
        bool, typer.Option("--float32", help="Keep all bits: twice the size of float16.")
    ] = False,
    bgr: Annotated[
        bool, typer.Option("--bgr", help="IN expects blue first, as weights from Caffe do.")
    ] = False,
) -> None:
    """Convert a published checkpoint for ``flowmatch flow --weights``.

    Knows FlowNetS and FlowNetC of FlowNetPytorch, FlowNet2 and its parts (C, S, SD, CS, CSS) of
    NVIDIA, and RAFT of Princeton and of torchvision, by their keys. Runs no code that a file may
    hold.
    """
    dtype = torch.float32 if float32 else torch.float16
    found = convert_checkpoint(source, target, bgr=bgr, dtype=dtype)
    messages.print(f"{found.source}, as {found.name}, in {target}")
