"""The command ``flowmatch``: the path of a file is its command; no logic, arguments only."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from flowmatch import __version__
from flowmatch._signals import sigterm_as_exit
from flowmatch.cli._tree import OrderedGroup, add_commands

program = typer.Typer(
    name="flowmatch",
    cls=OrderedGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done; 1 the command ran, but found nothing to trust (match, register, "
    "align, search), or a clip failed (flow); 2 bad input; 130 interrupted.",
)
add_commands(program)


def _print_version(given: bool) -> None:
    if given:
        typer.echo(f"flowmatch {__version__}")
        raise typer.Exit


@program.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Dense correspondence and optical flow."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; bad input gives one line on stderr and status 2.

    Args:
        arguments: Words after ``flowmatch``; None takes those of the process.

    Returns:
        0 for success, 1 if the command ran but found nothing to trust or a clip failed, 2 for bad
        input, 130 after an interruption, 143 after SIGTERM.
    """
    # Before OpenCV is imported: errors are reported by flowmatch, in one line.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with sigterm_as_exit(), _warnings_in_one_line():
            program(args=words, prog_name="flowmatch")
    except SystemExit as end:  # raised by typer, also after success
        return int(end.code or 0)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError) as error:
        return _fail(_message(error))
    except (MemoryError, RuntimeError) as error:
        from flowmatch.devices import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        return _fail("there is not enough memory" + (f": {reason}" if reason else ""))
    return 0


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show warnings of flowmatch without the line of code that gave them."""
    usual = warnings.formatwarning

    def one_line(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if category is UserWarning and "flowmatch" in filename:
            return f"warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = one_line
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _fail(message: str) -> int:
    from flowmatch.cli._messages import messages

    # Names of files and what they hold may carry the control sequences of a terminal.
    plain = "".join(c if c.isprintable() or c == "\n" else "?" for c in message)
    messages.print(f"error: {plain}")
    return 2


def _message(error: Exception) -> str:
    """Return an error's message; for one raised in a DataLoader's worker, without its traceback."""
    if isinstance(error, UnicodeEncodeError):
        start = error.object.rfind("\n", 0, error.start) + 1
        line = error.object[start:].partition("\n")[0][:200]
        return f"{line!r} cannot be written in {error.encoding}: is a file's name in another one?"
    from flowmatch.io._files import message_of

    message = message_of(error)
    if message.startswith("Caught ") and "Original Traceback" in message:
        return message.strip().splitlines()[-1].partition(": ")[2]
    return message
