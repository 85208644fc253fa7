"""What the readers and writers of flowmatch.io share: paths, suffixes, optional packages."""

import importlib
import os
import re
import secrets
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

FilePath = str | os.PathLike[str]

# Deflate cannot expand further (zlib's technical notes), so no honest file claims more.
_DEFLATE_LIMIT = 1032

# What zipfile raises for files that are none; OSError where an offset is negative.
DAMAGED_ZIP = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError,
)  # fmt: skip

T = TypeVar("T")


@contextmanager
def replace_when_done(path: FilePath) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and give it the final name when all went well.

    A reader therefore sees the old file or the whole new one, never a part. If the block fails,
    the temporary file is deleted and `path` is left as it was. The suffix is kept, because
    encoders choose the format by it.

    Args:
        path: The final name.

    Yields:
        The path to write to; it does not exist yet.

    Raises:
        FileNotFoundError: The folder of `path` does not exist.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "flow.flo"
        >>> with replace_when_done(target) as beside:
        ...     _ = beside.write_bytes(b"PIEH")
        >>> target.read_bytes()
        b'PIEH'
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} cannot be written: it is a folder")
    beside = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def existing_file(path: FilePath) -> Path:
    """Return `path` as a Path, or raise naming it when it is missing or a folder."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a file")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    return path


def entry_for_suffix(path: Path, table: Mapping[str, T], kind: str) -> T:
    """Look up the suffix of `path`, in any case; the error lists the suffixes of `table`."""
    try:
        return table[path.suffix.lower()]
    except KeyError:
        raise ValueError(
            f"{path}: expected a {kind} ending in one of {', '.join(table)}, "
            f"got {path.suffix or 'no suffix'!r}"
        ) from None


def optional_module(name: str, purpose: str) -> Any:
    """Import an optional dependency, or say in one sentence what it is needed for."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {name}: pip install {name} ({error})") from error


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Sort key by which frame2 comes before frame10."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(part), part) if part.isdecimal() else (-1, part.casefold()) for part in parts]


def size_in_words(shape: tuple[int, ...]) -> str:
    """Return ``width x height`` of an array ``[H, W, ...]``."""
    return f"{shape[1]} x {shape[0]}"


def require_dimensions(path: Path, height: int, width: int) -> None:
    """Refuse an image or field without pixels."""
    if height < 1 or width < 1:
        raise ValueError(f"{path}: expected at least 1 x 1 pixels, got {width} x {height}")


def require_size(path: Path, header: int, height: int, width: int, pixel: int) -> None:
    """Refuse a raw file that is not exactly its header and `height` x `width` pixels, in bytes."""
    require_dimensions(path, height, width)
    expected = header + height * width * pixel
    actual = path.stat().st_size
    if actual != expected:
        raise ValueError(
            f"{path}: expected {expected} bytes for {width} x {height} pixels, got {actual}"
        )


def require_plausible(path: Path, claimed: int, stored: int) -> None:
    """Refuse a file that claims more bytes than deflate can make of what is stored."""
    if claimed > _DEFLATE_LIMIT * stored:
        raise ValueError(
            f"{path}: claims {claimed} bytes, but its {stored} compressed bytes "
            f"hold at most {_DEFLATE_LIMIT * stored}"
        )
