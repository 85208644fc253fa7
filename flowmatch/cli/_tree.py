"""The commands by name. The module of a command is imported when the command runs, not before.

``train flow`` is the function `command` of ``flowmatch/cli/train/flow.py``, and so on.
"""

import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class Entry(NamedTuple):
    """A command, or a group of commands, as the help of its group shows it.

    Attributes:
        panel: Heading under which it is listed.
        help: First sentence of its own help.
    """

    panel: str
    help: str


_IMAGES, _SCANS, _PICTURES = "Images and videos", "Scans", "Collections of pictures"
_RESEARCH, _INSTALLATION = "Training and measuring", "Installation"
_SUB = "Commands"
_PANELS = (_IMAGES, _SCANS, _PICTURES, _RESEARCH, _INSTALLATION, _SUB)

COMMANDS = {
    "flow": Entry(_IMAGES, "Compute the optical flow from each frame to the next."),
    "match": Entry(_IMAGES, "Match two images, or the pairs of a list."),
    "align": Entry(_IMAGES, "Warp one image onto another."),
    "track": Entry(_IMAGES, "Track boxes or points through a video."),
    "stitch": Entry(_IMAGES, "Stitch overlapping photos to panoramas."),
    "app": Entry(_IMAGES, "Serve flow, matches, panoramas, scans and alignment to a browser."),
    "register": Entry(_SCANS, "Find the rigid motion between scans, and say whether to trust it."),
    "fuse": Entry(_SCANS, "Integrate depth frames with known poses into surfaces."),
    "index": Entry(_PICTURES, "Describe the pictures of a folder, for flowmatch search."),
    "search": Entry(_PICTURES, "Find pictures that show the same thing as another one."),
    "localise": Entry(_PICTURES, "Find where a photo was taken, from pictures with known poses."),
    "identify": Entry(_PICTURES, "Classify pictures by a few examples of each class."),
    "eval flow": Entry(_SUB, "Measure flow networks and classical methods."),
    "eval matching": Entry(_SUB, "Measure descriptors at the same keypoints."),
    "eval registration": Entry(_SUB, "Measure descriptors and registrations of scans."),
    "eval align": Entry(_SUB, "Measure alignment on warped photographs."),
    "eval track": Entry(_SUB, "Measure trackers of boxes and of points."),
    "eval retrieval": Entry(_SUB, "Measure the retrieval of views of the same photograph."),
    "eval localisation": Entry(_SUB, "Measure the localisation of held-out frames."),
    "eval metric-learning": Entry(_SUB, "Measure one embedding, or compare all losses."),
    "eval video": Entry(_SUB, "Measure the retrieval of moving objects in other frames."),
    "train flow": Entry(_SUB, "Train a flow network."),
    "train flow-confidence": Entry(_SUB, "Train the network that judges flows."),
    "train matching": Entry(_SUB, "Train a network that describes or compares patches."),
    "train registration": Entry(_SUB, "Train a descriptor of scans."),
    "train align": Entry(_SUB, "Train an alignment network."),
    "train track": Entry(_SUB, "Train a network that tracks boxes."),
    "train retrieval": Entry(_SUB, "Train a descriptor of whole pictures, without labels."),
    "train metric-learning": Entry(_SUB, "Train an embedding of labelled pictures."),
    "train video": Entry(_SUB, "Train an embedding of moving objects, without labels."),
    "synth flow": Entry(_SUB, "Draw a sheet of synthetic pairs with their flow."),
    "synth matching": Entry(_SUB, "Draw a sheet of synthetic pairs of patches."),
    "synth registration": Entry(_SUB, "Draw a sheet of synthetic pairs of scans."),
    "export flow": Entry(_SUB, "Write a flow network as an ONNX file of standard operators."),
    "export matching": Entry(
        _SUB, "Write a descriptor network as an ONNX file of standard operators."
    ),
    "weights list": Entry(_SUB, "Print the weights that ship with flowmatch."),
    "weights convert": Entry(_SUB, "Convert a published checkpoint of a flow network."),
    "info": Entry(_INSTALLATION, "Print versions, devices, kernels and weights."),
    "bench": Entry(_INSTALLATION, "Measure the speed of the kernels, beside other packages."),
}
GROUPS = {
    "train": Entry(_RESEARCH, "Train a network by a recipe."),
    "eval": Entry(_RESEARCH, "Measure methods against known truth."),
    "synth": Entry(_RESEARCH, "Look at synthetic training data."),
    "export": Entry(_INSTALLATION, "Write networks for runtimes without PyTorch."),
    "weights": Entry(_INSTALLATION, "List weights, or convert published ones."),
}


class _LazyCommand(TyperCommand):
    """A name and a line of help; the rest of the command is imported when it is used."""

    path = ""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        return load_command(self.path).make_context(info_name, args, parent, **extra)


class OrderedGroup(TyperGroup):
    """The root, whose help lists commands and groups by panel, in the order of the tables."""

    def list_commands(self, ctx: Any) -> list[str]:
        order = [*COMMANDS, *GROUPS]
        entries = COMMANDS | GROUPS
        return sorted(
            self.commands, key=lambda name: (_PANELS.index(entries[name].panel), order.index(name))
        )


def module_name(path: str) -> str:
    """Return the module of a command.

    Example:
        >>> module_name("eval metric-learning")
        'flowmatch.cli.eval.metric_learning'
    """
    return "flowmatch.cli." + path.replace("-", "_").replace(" ", ".")


def load_command(path: str) -> Any:
    """Import a command.

    Args:
        path: Key of `COMMANDS`.

    Returns:
        The command, as Typer parses its words and runs it.
    """
    module = import_module(module_name(path))
    # One line a paragraph: Typer breaks lines to the width of the terminal.
    paragraphs = (inspect.getdoc(module.command) or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    app = typer.Typer(add_completion=False)
    name = path.rpartition(" ")[2]
    app.command(name, help=text, epilog=_epilog(module.EXAMPLES))(module.command)
    return typer.main.get_command(app)


def _epilog(examples: Sequence[str]) -> str:
    return "\n\n".join(["[bold]Examples[/bold]", *(f"  {line}" for line in examples)])


def add_commands(app: typer.Typer) -> None:
    """Add all commands to the root of the command line."""
    parents = {"": app}
    for name, entry in GROUPS.items():
        group = parents[name] = typer.Typer(no_args_is_help=True, help=entry.help)
        app.add_typer(group, name=name, rich_help_panel=entry.panel)
    for path, entry in COMMANDS.items():
        parent, _, name = path.rpartition(" ")
        lazy = type("LazyCommand", (_LazyCommand,), {"path": path})
        parents[parent].command(name, cls=lazy, help=entry.help, rich_help_panel=entry.panel)(
            _placeholder
        )


def _placeholder() -> None:
    """Stand in for a command that is not imported yet."""
