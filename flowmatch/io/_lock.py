"""Locks of outputs, so that two runs do not write the same files at once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()  # descriptors of this process


def _forget() -> None:
    """Close the locks in a forked process: they end with the process that took them."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Refuse a second run that would write the same file while the block runs.

    The lock is a file beside `path`, which is removed at the end. The system frees it when the
    process ends in any way, so nothing has to be cleaned up after a crash. There is no lock where
    the file system, or Windows, has none.

    Args:
        path: File that only one run may write; its folder must exist.

    Raises:
        BlockingIOError: Another run holds the lock.

    Example:
        >>> import tempfile
        >>> with only_writer(Path(tempfile.mkdtemp()) / "run.json"):
        ...     pass
    """
    lock = path.with_name(f".flowmatch-{path.name}.lock")
    descriptor = None if fcntl is None else _locked(lock, path)
    if descriptor is None:
        yield
        return
    _held.add(descriptor)
    try:
        yield
    finally:
        _held.discard(descriptor)
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _locked(lock: Path, path: Path) -> int | None:
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # a folder that cannot be written to is reported when the file is written
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise BlockingIOError(
                f"another run is writing {path}: wait for its end, or take another output"
            ) from None
        except FileNotFoundError:
            pass  # the run before has just ended, and removed its lock
        except OSError:  # a file system without locks
            os.close(descriptor)
            return None
        os.close(descriptor)
