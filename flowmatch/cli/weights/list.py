"""``flowmatch weights list``: the weights that ship."""

from flowmatch import align, flow, matching
from flowmatch.cli._tables import stdout_console
from flowmatch.registration import store as registration


def command() -> None:
    """Print the weights that ship: name, task, network, what they are."""
    console = stdout_console()
    for line in shipped_weights():
        console.print(line, soft_wrap=True)


def shipped_weights() -> list[str]:
    """Return one line for each set of weights that ships: its name, task and network."""
    shelves = {"flow": flow, "matching": matching, "registration": registration, "align": align}
    return [
        f"{name} ({task}{', default' if entry.get('default') else ''}): {entry['summary']}"
        for task, shelf in shelves.items()
        for name, entry in shelf.available().items()
    ]
