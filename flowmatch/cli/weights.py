"""``flowmatch weights``: the weights that ship, and those that others published."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from flowmatch import align, flow, matching
from flowmatch.cli.options import console
from flowmatch.flow.external import convert_checkpoint
from flowmatch.registration import store as registration

weights_app = typer.Typer(no_args_is_help=True, help="List weights, or convert published ones.")


@weights_app.command("list")
def list_weights() -> None:
    """Print the weights that ship: name, task, network, what they are."""
    output = Console(highlight=False, soft_wrap=True, markup=False)
    for line in shipped_weights():
        output.print(line)


def shipped_weights() -> list[str]:
    """Return a line for all weights that ship: their name, task and network."""
    shelves = {"flow": flow, "matching": matching, "registration": registration, "align": align}
    return [
        f"{name} ({task}{', default' if entry.get('default') else ''}): {entry['summary']}"
        for task, shelf in shelves.items()
        for name, entry in shelf.available().items()
    ]


@weights_app.command("convert")
def convert_weights(
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
    console.print(f"{found.source}, as {found.name}, in {target}")
