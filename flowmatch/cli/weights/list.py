"""``flowmatch weights list``: the weights that ship."""

from flowmatch.catalogue import available
from flowmatch.cli._tables import stdout_console

EXAMPLES = ("flowmatch weights list", "flowmatch flow clip.mp4 -o flow --model pyramid")


def command() -> None:
    """Print the weights that ship with flowmatch.

    A line names the weights, their task and what they are good for. The names are values of
    --model.
    """
    console = stdout_console()
    for line in shipped_weights():
        console.print(line, soft_wrap=True)


def shipped_weights() -> list[str]:
    """Return one line for each set of weights that ships: its name, task and network."""
    lines = []
    for path, entry in available().items():
        task, _, name = path.partition("/")
        default = ", default" if entry.get("default") else ""
        lines.append(f"{name} ({task.replace('_', ' ')}{default}): {entry['summary']}")
    return lines
