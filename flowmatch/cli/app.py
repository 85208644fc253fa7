"""``flowmatch app``: the tools in a browser."""

from typing import Annotated

import typer

from flowmatch.app import serve
from flowmatch.app.server import TIME_LIMIT
from flowmatch.cli._messages import messages
from flowmatch.cli._options import DeviceName

EXAMPLES = ("flowmatch app", "flowmatch app --port 8080 --device cpu")
SERVER = "Server"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def command(
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", rich_help_panel=SERVER),
    ] = 7860,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; 0.0.0.0 lets other machines use the app.",
            rich_help_panel=SERVER,
        ),
    ] = "127.0.0.1",
    time_limit: Annotated[
        float,
        typer.Option(
            metavar="MINUTES", help="Longest time of a job, minutes.", rich_help_panel=SERVER
        ),
    ] = TIME_LIMIT,
    device: DeviceName = None,
) -> None:
    """Serve flow, matches, panoramas, scans and alignment to a browser.

    Jobs run one after the other, each in its own process. Nothing is sent to other machines;
    uploaded files and results are deleted when the command ends.
    """
    if host not in _LOOPBACK:
        messages.print(f"warning: everyone who can reach {host} can use this app")
    serve(
        host, port, device=device, time_limit=time_limit,
        on_ready=lambda url: messages.print(f"flowmatch app at {url}, Ctrl-C ends it"),
    )  # fmt: skip
