"""The command ``flowmatch``: one file a command, holding arguments and progress, no logic."""

import sys
from collections.abc import Sequence

import click
import typer
from rich.console import Console

from flowmatch.cli import bench, eval, flow, info, synth, train

app = typer.Typer(
    name="flowmatch",
    help="Dense correspondence and optical flow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("flow")(flow.flow)
app.command("info")(info.info)
app.command("bench")(bench.bench)
app.add_typer(eval.eval_app, name="eval")
app.add_typer(train.train_app, name="train")
app.add_typer(synth.synth_app, name="synth")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; bad input gives one line on stderr and status 2.

    Args:
        arguments: The words after ``flowmatch``; None takes those of the process.

    Returns:
        0 when all went well, 2 for bad input, 130 when interrupted.
    """
    try:
        status = app(
            args=list(arguments) if arguments is not None else sys.argv[1:],
            prog_name="flowmatch",
            standalone_mode=False,
        )
        return int(status or 0)
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        return 130
    except (ValueError, OSError, ImportError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {error}", markup=False)
        return 2
