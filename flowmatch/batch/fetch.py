"""Clips of object stores and archives, by fsspec: copied here while they are computed."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from flowmatch.io._files import optional_module
from flowmatch.io._video_stream import is_url

# What FFmpeg reads itself, without a copy. http and https are known to fsspec too.
_STREAMS = {
    "rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "rtp", "srtp", "udp", "tcp", "tls", "srt", "http",
    "https", "mms", "mmsh", "ftp", "rist",
}  # fmt: skip


def is_remote(source: str) -> bool:
    """Return whether a clip is copied before it is read.

    Example:
        >>> is_remote("s3://bucket/a.mp4"), is_remote("rtsp://host/stream"), is_remote("a.mp4")
        (True, False, False)
    """
    return is_url(source) and source.partition("://")[0].lower() not in _STREAMS


def remote_state(url: str) -> str:
    """Return a text that changes with the file of a URL.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No file system of fsspec has that protocol.
        ImportError: The package of that file system is not installed.
    """
    system, path = _open(url)
    return f"{url} {system.ukey(path)}"


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Yield a local copy of a file, which is deleted at the end.

    Raises:
        FileNotFoundError: There is no such file.
    """
    system, path = _open(url)
    with tempfile.TemporaryDirectory(prefix="flowmatch-") as folder:
        target = Path(folder, PurePosixPath(path).name)
        system.get_file(path, str(target))
        yield target


def _open(url: str) -> tuple[Any, str]:
    core = optional_module("fsspec.core", "reading clips of object stores")
    system, path = core.url_to_fs(url)
    return system, str(path)
