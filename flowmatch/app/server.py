"""The server of the app: its folder, its limits and its settings."""

import os
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from flowmatch.app.job import start_server
from flowmatch.devices import choose_device

LARGEST_FILE = 500 * 2**20
"""Longest file that is accepted, bytes."""
MOST_PIXELS = 2**26
"""Largest picture that is decoded, in pixels."""
TIME_LIMIT = 30.0
"""Longest time of a job, minutes."""

_LOCAL = "localhost,127.0.0.1,::1"
# gradio and huggingface_hub report and fetch nothing; requests of the server to itself take no
# proxy; OpenCV in the processes of jobs refuses larger pictures.
_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_PROXY": _LOCAL,
    "no_proxy": _LOCAL,
    "OPENCV_IO_MAX_IMAGE_PIXELS": str(MOST_PIXELS),
}


def serve(
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    device: str | None = None,
    time_limit: float = TIME_LIMIT,
    on_ready: Callable[[str], None] = print,
) -> None:
    """Serve the app until the process is interrupted.

    Uploaded files and results are in a temporary folder, which is removed in the end. Environment
    variables are set for the whole process.

    Args:
        host: Address to listen on. Others than 127.0.0.1 let other machines use the app.
        port: Port to listen on; 0 takes a free one.
        device: Device of the networks; None takes a GPU if there is one.
        time_limit: Longest time of a job, minutes.
        on_ready: Called with the URL when the app can be used.

    Raises:
        ImportError: gradio is not installed.
        OSError: The address cannot be used, or the port is not free.
        ValueError: The device does not exist, or a number is out of range.
    """
    if not time_limit > 0:
        raise ValueError(f"the time limit must be a positive number of minutes, got {time_limit}")
    target = str(choose_device(device))
    port = _free_port(host, port)
    os.environ.update(_ENVIRONMENT)
    with tempfile.TemporaryDirectory(
        prefix="flowmatch-app-", ignore_cleanup_errors=True
    ) as temporary:
        uploads = Path(temporary).resolve()
        results = uploads / "results"
        results.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        try:
            from flowmatch.app.page import Settings, launch
        except ImportError as error:
            raise ImportError(
                f"flowmatch app needs gradio: pip install 'flowmatch[app]' ({error})"
            ) from error
        start_server()
        page, url = launch(
            Settings(uploads, results, target, 60 * time_limit), host, port, LARGEST_FILE
        )
        try:
            on_ready(url)
            threading.Event().wait()
        except KeyboardInterrupt:
            return
        finally:
            page.close(verbose=False)


def _free_port(host: str, port: int) -> int:
    """Return a port that can be listened on.

    Raises:
        OSError: The address does not exist here, or the port is not free.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"the port must be 0 to 65535, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            return int(listener.getsockname()[1])
    except OSError as error:
        raise OSError(f"cannot listen on port {port} of {host}: {error.strerror}") from error
