"""Descriptors of a folder of pictures in one file: kept up to date, safe to interrupt."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flowmatch.io import IMAGE_SUFFIXES, read_image, replace_when_done
from flowmatch.io._files import FilePath, existing_file
from flowmatch.retrieval.describe import Describer

_FORMAT = "retrieval index 1"
_SAMPLE = 200  # pictures that a describer learns from
_SAVE_AFTER, _SAVE_SHARE = 30.0, 20.0  # seconds, and at most a 20th of the time for saving
_STATE = "state."


class Entry(NamedTuple):
    """A picture as it was when it was described.

    Attributes:
        name: Relative to the folder, with / between folders.
        size: Bytes.
        changed: Nanoseconds of its last change.
    """

    name: str
    size: int
    changed: int


class Failure(NamedTuple):
    """A picture that could not be described, and why."""

    entry: Entry
    reason: str


@dataclass
class Index:
    """What is known of a folder of pictures.

    Attributes:
        about: What described them, `Describer.about`.
        root: The folder.
        entries: Of the pictures described, N.
        descriptors: ``[N, D]`` float16, of length 1.
        failed: Pictures that could not be read or described.
        state: What the describer had learnt.
    """

    about: str
    root: Path
    entries: list[Entry] = field(default_factory=list)
    descriptors: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.float16))
    failed: list[Failure] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class IndexReport:
    """How far an update is.

    Attributes:
        total: Pictures in the folder.
        described: Pictures described by this run.
        kept: Pictures that were there already, or had failed already.
        removed: Pictures that are gone, or have changed.
        failed: Pictures that could not be read or described by this run.
    """

    total: int = 0
    described: int = 0
    kept: int = 0
    removed: int = 0
    failed: int = 0


# ---- The file ----------------------------------------------------------------------------------


def write_index(path: FilePath, index: Index) -> None:
    """Write an index; a crash leaves the old one or the whole new one.

    The folder is noted relative to the file, so that both can be moved together.

    Args:
        path: ``.safetensors``.
        index: What to write.

    Raises:
        ValueError: Another suffix.
        FileNotFoundError: There is no such folder.
    """
    path = Path(path)
    check_index_name(path)
    try:
        root = Path(os.path.relpath(index.root.resolve(), path.parent.resolve()))
    except ValueError:  # on another drive of Windows
        root = index.root.resolve()
    content = {
        "about": index.about,
        "root": root.as_posix(),
        "files": index.entries,
        "failed": [[*entry, reason] for entry, reason in index.failed],
    }
    tensors = {"descriptors": index.descriptors.to(torch.float16).contiguous()}
    tensors |= {_STATE + name: tensor.contiguous() for name, tensor in index.state.items()}
    with replace_when_done(path) as beside:
        # Not save_file, whose files nobody but their owner may read.
        beside.write_bytes(save(tensors, {"flowmatch": _FORMAT, "content": json.dumps(content)}))


def check_index_name(path: Path) -> None:
    """Raise ValueError for a name that an index cannot have."""
    if path.suffix != ".safetensors":
        raise ValueError(f"an index must end in .safetensors, got {path}")


def read_index(path: FilePath) -> Index:
    """Read an index; nothing in it is executed, and it names no file outside of its folder.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or no index.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_index(folder / "index.safetensors", Index("nothing", folder))
        >>> read_index(folder / "index.safetensors").entries
        []
    """
    path = existing_file(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("flowmatch") != _FORMAT:
                raise ValueError(f"{path} is no index of flowmatch ({_FORMAT})")
            # safetensors has compared all sizes with the file's before any is read.
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged, or no index: {error}") from error
    try:
        content = json.loads(metadata["content"])
        entries = [_entry(*row) for row in content["files"]]
        failed = [Failure(_entry(*row[:3]), str(row[3])) for row in content["failed"]]
        about, root = str(content["about"]), Path(str(content["root"]))
        descriptors = tensors.pop("descriptors")
    except (KeyError, TypeError, IndexError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is a damaged index: {error!r}") from error
    shape = list(descriptors.shape)
    if descriptors.dtype != torch.float16 or len(shape) != 2 or shape[0] != len(entries):
        raise ValueError(
            f"{path}: descriptors must be float16 [{len(entries)}, D], "
            f"got {descriptors.dtype} {shape}"
        )
    if not descriptors.isfinite().all():
        raise ValueError(f"{path}: descriptors are not finite")
    state = {name.removeprefix(_STATE): tensor for name, tensor in tensors.items()}
    return Index(about, path.parent / root, entries, descriptors, failed, state)


def _entry(name: Any, size: Any, changed: Any) -> Entry:
    parts = PurePosixPath(str(name))
    if parts.is_absolute() or ".." in parts.parts or Path(str(name)).is_absolute() or "\0" in name:
        raise ValueError(f"{name!r} is outside of the folder")
    return Entry(str(name), int(size), int(changed))


# ---- Keeping it up to date ---------------------------------------------------------------------


def list_pictures(folder: FilePath) -> list[Entry]:
    """List the pictures in a folder and the folders in it, by name; hidden ones are left out.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    found = []
    for path in root.rglob("*"):
        name = path.relative_to(root)
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        about = path.stat()
        found.append(Entry(name.as_posix(), about.st_size, about.st_mtime_ns))
    return sorted(found)


def update_index(
    folder: FilePath,
    path: FilePath,
    describer: Describer,
    *,
    overwrite: bool = False,
    progress: Callable[[IndexReport], None] | None = None,
) -> Index:
    """Describe what is new or changed in a folder, and forget what is gone.

    What is done is saved now and then, and at an interruption: the same call goes on. The describer
    learns from the folder at the first time only.

    Args:
        folder: Of pictures, and folders of pictures.
        path: The index, ``.safetensors``; it may be there.
        describer: What makes descriptors.
        overwrite: Begin anew.
        progress: Called after each picture.

    Returns:
        The index, as it is in the file.

    Raises:
        FileNotFoundError: A folder is not there.
        ValueError: There is no picture, or the index is damaged, or another describer's.

    Example:
        >>> import tempfile
        >>> from flowmatch.io import write_image
        >>> from flowmatch.retrieval.describe import VladDescriber
        >>> pictures = Path(tempfile.mkdtemp())
        >>> texture = np.random.default_rng(0).integers(0, 255, (12, 12), np.uint8)
        >>> write_image(pictures / "a.png", texture.repeat(8, axis=0).repeat(8, axis=1))
        >>> index = update_index(pictures, pictures / "i.safetensors", VladDescriber(words=4))
        >>> index.descriptors.shape
        torch.Size([1, 512])
    """
    folder, path = Path(folder), Path(path)
    check_index_name(path)
    listed = list_pictures(folder)
    if not listed:
        raise ValueError(f"{folder} holds no pictures ({', '.join(IMAGE_SUFFIXES)})")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
    index = Index(describer.about, folder)
    if path.exists() and not overwrite:
        index = _existing(path, folder, describer)
    else:
        describer.fit(_sample(folder, listed))
        index.state = describer.state()
    report = IndexReport(total=len(listed))
    todo = _forget(index, listed, report)
    _describe_all(index, path, describer, todo, report, progress)
    return index


def _existing(path: Path, folder: Path, describer: Describer) -> Index:
    index = read_index(path)
    if index.about != describer.about:
        raise ValueError(
            f"{path} was made by {index.about!r}, not by {describer.about!r}: "
            "overwrite it, or choose another name"
        )
    if index.root.resolve() != folder.resolve():
        raise ValueError(f"{path} is about {index.root}, not {folder}")
    describer.restore(index.state)
    return index


def _sample(folder: Path, listed: Sequence[Entry]) -> Iterator[NDArray[np.uint8]]:
    chosen = np.linspace(0, len(listed) - 1, min(len(listed), _SAMPLE)).round().astype(int)
    for k in chosen:
        try:
            yield read_image(folder / listed[k].name)
        except (ValueError, OSError):
            continue  # it will be met again, and noted


def _forget(index: Index, listed: Sequence[Entry], report: IndexReport) -> list[Entry]:
    """Drop what is gone or has changed; return what is to be described."""
    here = set(listed)
    kept = [k for k, entry in enumerate(index.entries) if entry in here]
    report.removed = len(index.entries) - len(kept)
    index.entries = [index.entries[k] for k in kept]
    index.descriptors = index.descriptors[kept]
    index.failed = [failure for failure in index.failed if failure.entry in here]
    known = {*index.entries, *(failure.entry for failure in index.failed)}
    report.kept = len(known)
    return [entry for entry in listed if entry not in known]


def _describe_all(
    index: Index,
    path: Path,
    describer: Describer,
    todo: Sequence[Entry],
    report: IndexReport,
    progress: Callable[[IndexReport], None] | None,
) -> None:
    new: list[Tensor] = []
    due = time.monotonic() + _SAVE_AFTER
    try:
        for entry in todo:
            try:
                found = describer(read_image(index.root / entry.name)).half()
                if not found.any():  # a score of 0 would be better than that of many a match
                    raise ValueError("nothing in it can be described")
                new.append(found)
            except (ValueError, OSError) as error:
                index.failed.append(Failure(entry, str(error)))
                report.failed += 1
            else:
                index.entries.append(entry)
                report.described += 1
            if progress is not None:
                progress(report)
            if time.monotonic() > due:
                before = time.monotonic()
                _save(path, index, new)
                now = time.monotonic()
                due = now + max(_SAVE_AFTER, _SAVE_SHARE * (now - before))
    finally:  # also when interrupted: what is done stays done
        _save(path, index, new)
    if progress is not None:
        progress(report)


def _save(path: Path, index: Index, new: list[Tensor]) -> None:
    if new:
        # An interruption may come between a descriptor and its entry.
        added = torch.stack(new[: len(index.entries) - len(index.descriptors)])
        old = index.descriptors if len(index.descriptors) else added[:0]
        index.descriptors = torch.cat([old, added])
        new.clear()
    write_index(path, index)
