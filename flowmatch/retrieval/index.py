"""Index of the images in a folder: their global descriptors in one file."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowmatch.io import replace_when_done
from flowmatch.io._files import FilePath, existing_file, reason_of
from flowmatch.io._white import check_white
from flowmatch.tensor_files import encode_safetensors, read_safetensors

_FORMAT = "retrieval index 1"
_STATE = "state."


class Entry(NamedTuple):
    """An image of the folder, as it was when it was described.

    Attributes:
        name: Path relative to the folder, with / between folders.
        size: Size of the file in bytes.
        modified: Time of the file's last change, nanoseconds.
    """

    name: str
    size: int
    modified: int


class Failure(NamedTuple):
    """An image that could not be described.

    Attributes:
        entry: The image.
        reason: Reason of the failure.
    """

    entry: Entry
    reason: str


@dataclass
class IndexReport:
    """Counts of images in an update of an index.

    Attributes:
        total: Images in the folder.
        described: Images that the update described.
        kept: Images that were described, or had failed, before.
        removed: Images that were deleted or have changed since they were described.
        failed: Images that the update could not read or describe.
    """

    total: int = 0
    described: int = 0
    kept: int = 0
    removed: int = 0
    failed: int = 0


@dataclass
class Index:
    """Descriptors of the images in a folder.

    Attributes:
        about: Text that names the describer, `Describer.about`.
        root: The folder.
        entries: N images that are described.
        descriptors: ``[N, D]`` float16, of unit length.
        failed: Images that could not be read or described.
        state: State of the describer, `Describer.state`.
        report: Counts of the update that made this index; None if it was read from a file.
        white: Value of white with which pictures of 16 bits were read, see `white_level`.
    """

    about: str
    root: Path
    entries: list[Entry] = field(default_factory=list)
    descriptors: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.float16))
    failed: list[Failure] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)
    report: IndexReport | None = None
    white: int | None = None


def write_index(path: FilePath, index: Index) -> None:
    """Write an index; a crash leaves either the old file or the complete new one.

    The folder is stored relative to the file, so that both can be moved together.

    Args:
        path: ``.safetensors`` file.
        index: The index.

    Raises:
        ValueError: The file has another suffix.
        FileNotFoundError: The folder of the file does not exist.
    """
    path = Path(path)
    check_index_name(path)
    try:
        root = Path(os.path.relpath(index.root.resolve(), path.parent.resolve()))
    except ValueError:  # another drive on Windows
        root = index.root.resolve()
    content: dict[str, object] = {
        "about": index.about,
        "root": root.as_posix(),
        "files": index.entries,
        "failed": [[*entry, reason] for entry, reason in index.failed],
    }
    if index.white is not None:
        content["white"] = index.white
    tensors = {"descriptors": index.descriptors.to(torch.float16).contiguous()}
    tensors |= {_STATE + name: tensor.contiguous() for name, tensor in index.state.items()}
    with replace_when_done(path) as temporary:
        metadata = {"flowmatch": _FORMAT, "content": json.dumps(content)}
        temporary.write_bytes(encode_safetensors(tensors, metadata))


def check_index_name(path: Path) -> None:
    """Check the name of an index file.

    Raises:
        ValueError: It does not end in ``.safetensors``.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"an index must end in .safetensors, got {path}")


def read_index(path: FilePath) -> Index:
    """Read an index; nothing in it is executed, and it refers to no file outside its folder.

    Args:
        path: ``.safetensors`` file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or not an index.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_index(folder / "index.safetensors", Index("nothing", folder))
        >>> read_index(folder / "index.safetensors").entries
        []
    """
    path = existing_file(path)
    tensors, metadata = read_safetensors(path)
    if metadata.get("flowmatch") != _FORMAT:
        raise ValueError(f"{path} is not an index of flowmatch ({_FORMAT})")
    try:
        content = json.loads(metadata["content"])
        entries = [_entry(*row) for row in content["files"]]
        failed = [Failure(_entry(*row[:3]), str(row[3])) for row in content["failed"]]
        about, root = str(content["about"]), Path(str(content["root"]))
        white = content.get("white")
        check_white(white)
        descriptors = tensors.pop("descriptors")
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is a damaged index: {reason_of(error)}") from error
    shape = list(descriptors.shape)
    if descriptors.dtype != torch.float16 or len(shape) != 2 or shape[0] != len(entries):
        raise ValueError(
            f"{path}: descriptors must be float16 [{len(entries)}, D], "
            f"got {descriptors.dtype} {shape}"
        )
    if not descriptors.isfinite().all():
        raise ValueError(f"{path}: descriptors are not finite")
    state = {name.removeprefix(_STATE): tensor for name, tensor in tensors.items()}
    return Index(about, path.parent / root, entries, descriptors, failed, state, white=white)


def _entry(name: Any, size: Any, modified: Any) -> Entry:
    relative = PurePosixPath(str(name))
    if (
        relative.is_absolute()
        or ".." in relative.parts
        or Path(str(name)).is_absolute()
        or "\0" in name
    ):
        raise ValueError(f"{name!r} is outside of the folder")
    return Entry(str(name), int(size), int(modified))
