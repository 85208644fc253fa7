"""Paths, suffixes, size checks and optional packages of all readers and writers."""

import errno
import functools
import hashlib
import importlib
import os
import re
import secrets
import socket
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

FilePath = str | os.PathLike[str]

# Deflate cannot expand further (zlib's technical notes), so no honest file claims more.
_DEFLATE_LIMIT = 1032

# Errors of zipfile for damaged files; OSError where an offset is negative, UnicodeDecodeError for
# names.
DAMAGED_ZIP = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError,
    UnicodeDecodeError,
)  # fmt: skip

# Errors that name no file and come from the storage: full, over a quota, too large, read-only.
_STORAGE_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}

_LONGEST_REASON = 300  # characters
_STALE = 24 * 3600.0  # seconds without a change after which a temporary file has no writer

T = TypeVar("T")


@contextmanager
def replace_when_done(path: FilePath) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, renamed to `path` if the block succeeds.

    A reader therefore sees the old file or the whole new one, never a part. If the block fails,
    the temporary file is deleted and `path` is left as it was. The temporary name has the same
    suffix, because encoders choose the format by it. It also names the process: those that a
    killed process left in the folder are deleted.

    Errors that some file systems report only when the data reaches them (a quota, a full disk of
    another machine) are asked for before the file gets its name. Write by `write` and
    `write_array`: ``ndarray.tofile`` and ``np.save`` of an open file lose such errors.

    Args:
        path: File to write; its folder must exist.

    Yields:
        Path to write to; it does not exist yet.

    Raises:
        FileNotFoundError: The folder of `path` does not exist.
        IsADirectoryError: `path` is a folder.
        OSError: `path` is a device or a pipe, or the file cannot be written; the message names
            `path`, not the temporary file.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "flow.flo"
        >>> with replace_when_done(target) as temporary:
        ...     _ = temporary.write_bytes(b"PIEH")
        >>> target.read_bytes()
        b'PIEH'
    """
    path = Path(path)
    _check_replaceable(path)
    _remove_stale(path.parent)
    temporary = path.with_name(f".flowmatch-{_run()}-{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
        _reach_storage(temporary)
        temporary.replace(path)
    except OSError as error:
        if temporary.name not in str(error) and error.errno not in _STORAGE_ERRORS:
            raise
        reason = error.strerror or str(error).replace(str(temporary), str(path))
        kind = PermissionError if isinstance(error, PermissionError) else OSError
        raise kind(f"{path} cannot be written: {reason}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _check_replaceable(path: Path) -> None:
    """Raise an error where a file would have no folder, or replace anything but a file.

    Links such as /dev/stdout may lead to a file, and are part of the system like a device.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} cannot be written: it is a folder")
    folder = path.parent.resolve()
    is_special = path.exists() and not path.is_file()
    is_of_process = folder.is_relative_to("/proc") and os.path.lexists(path)
    if is_special or is_of_process or folder == Path("/dev"):
        raise OSError(f"{path} cannot be written: it is a device or a pipe, expected a file")


def _run() -> str:
    """Return a name for this process that no other living one has: its machine, and its number."""
    return f"{_machine()}-{os.getpid()}"


@functools.cache
def _machine() -> str:
    """Return a short name of the space of process numbers: host, start of the system, container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.sha256(" ".join(parts).encode(errors="surrogateescape")).hexdigest()[:8]


_TEMPORARY = re.compile(r"\.flowmatch-([0-9a-f]{8})-([0-9]{1,10})-[0-9a-f]{16}(\..*)?", re.DOTALL)
_looked_at: set[Path] = set()  # folders; a folder of many thousand files is listed once


def _remove_stale(folder: Path) -> None:
    """Delete the temporary files that killed processes left in a folder, once per process."""
    folder = folder.resolve()
    if folder in _looked_at:
        return
    _looked_at.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = _TEMPORARY.fullmatch(entry.name)
            if name and _is_stale(entry, name[1], int(name[2])):
                with suppress(OSError):
                    Path(entry.path).unlink()


def _is_stale(entry: "os.DirEntry[str]", machine: str, process: int) -> bool:
    if machine == _machine() and os.name == "posix":
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass
        return False
    # A file of another machine, or from before the system started.
    with suppress(OSError):
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE
    return False


def _reach_storage(path: Path) -> None:
    """Wait until a file is on its disk.

    Raises:
        OSError: It does not fit there.
    """
    with path.open("r+b") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not a file system with a disk
                raise


def write_array(file: IO[bytes], array: NDArray[Any]) -> None:
    """Write the bytes of an array in C order; a full disk is an error, unlike by `tofile`."""
    if array.size:
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


class ReportingFile:
    """A file as `np.save` must see it, so that a full disk is an error."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        """Write data."""
        return self._file.write(data)


def existing_file(path: FilePath) -> Path:
    """Return the path of an existing file.

    Raises:
        FileNotFoundError: Nothing has that name.
        IsADirectoryError: It is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a file")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    return path


def entry_for_suffix(path: Path, table: Mapping[str, T], kind: str) -> T:
    """Return the entry of `table` for the suffix of `path`, in any case.

    Args:
        path: Name of a file.
        table: Entries by lower-case suffix, such as ``".png"``.
        kind: Noun for the error message, such as ``"picture"``.

    Raises:
        ValueError: The suffix is not in `table`; the message lists its suffixes.
    """
    try:
        return table[path.suffix.lower()]
    except KeyError:
        raise ValueError(
            f"{path}: expected a {kind} ending in one of {', '.join(table)}, "
            f"got {path.suffix or 'no suffix'!r}"
        ) from None


def optional_module(name: str, purpose: str, extra: str | None = None) -> Any:
    """Import an optional dependency, which `extra` of flowmatch brings.

    Raises:
        ImportError: It is not installed; the message says what needs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name if extra is None else f"'flowmatch[{extra}]'"
        raise ImportError(f"{purpose} needs {name}: pip install {package} ({error})") from error


def reason_of(error: BaseException) -> str:
    r"""Return the message of a dependency's error as one short line: it may quote parts of a file.

    Example:
        >>> reason_of(ValueError("bad header\n\x1b[31m"))
        'bad header ?[31m'
    """
    # Errors of OpenCV name places in its sources; their `err` is the reason alone.
    text = str(getattr(error, "err", None) or error)
    words = f"{text} is missing".split() if isinstance(error, KeyError) else text.split()
    return short_line(" ".join(words)) or type(error).__name__


def check_writable(path: Path) -> None:
    """Raise an error for a file that could not be written, before any work is done.

    Raises:
        FileNotFoundError: Its folder does not exist.
        IsADirectoryError: It is a folder.
        PermissionError: Its folder is read-only.
        OSError: It is a device or a pipe.
    """
    _check_replaceable(path)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path} cannot be written: the folder {path.parent} is read-only")


def message_of(error: Exception) -> str:
    """Return the message of an exception; of the operating system's errors without their number.

    Example:
        >>> message_of(FileNotFoundError(2, "No such file or directory", "a.png"))
        'a.png: no such file or directory'
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    return str(error)


def short_line(text: str) -> str:
    r"""Return a text from a file as one short line that can be printed.

    Example:
        >>> short_line("weight\x7f")
        'weight?'
    """
    line = "".join(c if c.isprintable() else "?" for c in text)
    return line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + "..."


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Return a sort key that puts frame2 before frame10."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(part), part) if part.isdecimal() else (-1, part.casefold()) for part in parts]


def size_in_words(shape: tuple[int, ...]) -> str:
    """Return the size of an array ``[H, W, ...]`` as the text ``width x height``."""
    return f"{shape[1]} x {shape[0]}"


def ffmpeg_name(path: Path) -> str:
    """Return the name of a file for FFmpeg, which takes ``12:30.mp4`` for a protocol ``12``."""
    return str(path.absolute())


def require_dimensions(path: Path, height: int, width: int) -> None:
    """Raise ValueError for an image or flow field without pixels."""
    if height < 1 or width < 1:
        raise ValueError(f"{path}: expected at least 1 x 1 pixels, got {width} x {height}")


def require_size(path: Path, header: int, height: int, width: int, pixel: int) -> None:
    """Raise ValueError unless a raw file has exactly the bytes of its header and its pixels."""
    require_dimensions(path, height, width)
    expected = header + height * width * pixel
    actual = path.stat().st_size
    if actual != expected:
        raise ValueError(
            f"{path}: expected {expected} bytes for {width} x {height} pixels, got {actual}"
        )


def require_plausible(path: Path, claimed: int, stored: int) -> None:
    """Raise ValueError if a file claims more bytes than deflate can expand the stored ones to."""
    if claimed > _DEFLATE_LIMIT * stored:
        raise ValueError(
            f"{path}: claims {claimed} bytes, but its {stored} compressed bytes "
            f"hold at most {_DEFLATE_LIMIT * stored}"
        )
