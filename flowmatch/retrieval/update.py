"""Building an index from a folder of images, and keeping it up to date."""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flowmatch.imaging import Image
from flowmatch.io._files import FilePath, check_writable, message_of
from flowmatch.io._lock import only_writer
from flowmatch.io._white import white_in_force, white_level
from flowmatch.io.image import READ_SUFFIXES, warn_of_other_kinds
from flowmatch.io.masked import read_masked
from flowmatch.progress import ProgressCallback
from flowmatch.retrieval.describe import Describer, load_describer
from flowmatch.retrieval.index import (
    Entry,
    Failure,
    Index,
    IndexReport,
    check_index_name,
    read_index,
    write_index,
)
from flowmatch.retrieval.vlad_describer import VladOptions

_SAMPLE = 200  # images from which a describer learns
_SAVE_AFTER = 30.0  # seconds between two saves of the index, ...
_SAVE_FACTOR = 20.0  # ... or this multiple of the time that saving takes, if that is longer
_DEFAULTS = VladOptions()


def build_index(
    folder: FilePath,
    output: FilePath | None = None,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    options: VladOptions = _DEFAULTS,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Index:
    """Describe the images in a folder and its subfolders, for `search`.

    Images that an existing index file contains are not described again unless they have changed.
    The file is saved from time to time and at an interruption; the same call then continues.

    Args:
        folder: Folder of images.
        output: Index file, ``.safetensors``, which is updated if it exists; None keeps the index
            in memory only.
        model: Local descriptor for VLAD, or network of whole images, see
            `flowmatch.retrieval.load_describer`.
        device: Device of the network; None takes a GPU if torch can use one, and leaves a given
            network where it is.
        options: Options of VLAD.
        overwrite: Whether to replace an existing file instead of updating it.
        progress: Called after each image.

    Returns:
        The index, as it is in the file.

    Raises:
        FileNotFoundError: A folder or a file of weights does not exist.
        ValueError: There is no image, the model is unknown, or the existing file is damaged or was
            made with another model.

    Example:
        >>> import tempfile
        >>> from flowmatch.io import write_image
        >>> folder = Path(tempfile.mkdtemp())
        >>> texture = np.random.default_rng(0).integers(0, 255, (12, 12), np.uint8)
        >>> write_image(folder / "a.png", texture.repeat(8, axis=0).repeat(8, axis=1))
        >>> index = build_index(folder, model="rootsift", options=VladOptions(words=4))
        >>> index.descriptors.shape
        torch.Size([1, 512])
    """
    describer = load_describer(model, device=device, options=options)
    return update_index(folder, output, describer, overwrite=overwrite, progress=progress)


def update_index(
    folder: FilePath,
    path: FilePath | None,
    describer: Describer,
    *,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Index:
    """Build or update an index by any describer, see `build_index`.

    Args:
        folder: Folder of images.
        path: Index file, ``.safetensors``, or None.
        describer: Maker of the descriptors; it learns from the folder when the index is new.
        overwrite: Whether to replace an existing file instead of updating it.
        progress: Called after each image.

    Returns:
        The index, as it is in the file.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: There is no image, or the existing file is damaged or was made with another
            describer.
    """
    return IndexUpdate(folder, path, describer, overwrite=overwrite).run(progress)


class IndexUpdate:
    """Update of an index: new images are described, and deleted ones are removed.

    Args:
        folder: Folder of images.
        path: Index file, ``.safetensors``, or None.
        describer: Maker of the descriptors.
        overwrite: Whether to replace an existing file instead of updating it.

    Attributes:
        report: Counts, which `run` keeps up to date; they remain after an interruption.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: There is no image, or the file has another suffix.
    """

    def __init__(
        self,
        folder: FilePath,
        path: FilePath | None,
        describer: Describer,
        *,
        overwrite: bool = False,
    ) -> None:
        self._folder = Path(folder)
        self._path = None if path is None else Path(path)
        self._describer, self._overwrite = describer, overwrite
        if self._path is not None:
            check_index_name(self._path)
        self._images = list_images_below(self._folder)
        if not self._images:
            raise ValueError(f"{self._folder} contains no images ({', '.join(READ_SUFFIXES)})")
        if self._path is not None:
            check_writable(self._path)
        self.report = IndexReport(total=len(self._images))
        self._index = Index(
            describer.about, self._folder, report=self.report, white=white_in_force()
        )
        self._new: list[Tensor] = []

    def run(self, progress: ProgressCallback | None = None) -> Index:
        """Describe what is new, and save the index, also when interrupted.

        Args:
            progress: Called after each image, with the stages "vocabulary" and "index".

        Returns:
            The index.

        Raises:
            ValueError: The existing file is damaged, or was made with another describer or from
                another folder.
            BlockingIOError: Another run is writing the file.
        """
        # Each save replaces the whole file: of two runs, one would lose what the other described.
        with nullcontext() if self._path is None else only_writer(self._path):
            return self._run(progress)

    def _run(self, progress: ProgressCallback | None) -> Index:
        if self._path is not None and self._path.exists() and not self._overwrite:
            self._index = self._existing(self._path)
        else:
            self._describer.fit(self._sample(progress))
            self._index.state = self._describer.state()
        remaining = self._remove_outdated()
        self._notify(progress)
        with white_level(self._index.white):
            self._describe(remaining, progress)
        return self._index

    def _existing(self, path: Path) -> Index:
        index = read_index(path)
        if index.about != self._describer.about:
            raise ValueError(
                f"{path} was made by {index.about!r}, not by {self._describer.about!r}: "
                "overwrite it, or choose another name"
            )
        if white_in_force() not in (None, index.white):
            raise ValueError(
                f"{path} was made with white at {index.white or 'its default'}, not "
                f"{white_in_force()}: overwrite it, or choose another name"
            )
        if index.root.resolve() != self._folder.resolve():
            raise ValueError(f"{path} is about {index.root}, not {self._folder}")
        self._describer.restore(index.state)
        index.report = self.report
        return index

    def _sample(self, progress: ProgressCallback | None) -> Iterator[Image]:
        count = min(len(self._images), _SAMPLE)
        chosen = np.linspace(0, len(self._images) - 1, count).round().astype(int)
        for number, k in enumerate(chosen, 1):
            with suppress(ValueError, OSError):  # `_describe` records the failure
                yield read_masked(self._folder / self._images[k].name).image
            if progress:
                progress("vocabulary", number, count)

    def _remove_outdated(self) -> list[Entry]:
        """Remove images that are deleted or changed; return those that are to be described."""
        index, present = self._index, set(self._images)
        kept = [k for k, entry in enumerate(index.entries) if entry in present]
        self.report.removed = len(index.entries) - len(kept)
        index.entries = [index.entries[k] for k in kept]
        index.descriptors = index.descriptors[kept]
        index.failed = [failure for failure in index.failed if failure.entry in present]
        known = {*index.entries, *(failure.entry for failure in index.failed)}
        self.report.kept = len(known)
        return [entry for entry in self._images if entry not in known]

    def _describe(self, entries: Sequence[Entry], progress: ProgressCallback | None) -> None:
        due = time.monotonic() + _SAVE_AFTER
        try:
            for entry in entries:
                self._describe_image(entry)
                self._notify(progress)
                if time.monotonic() > due:
                    start = time.monotonic()
                    self._save()
                    end = time.monotonic()
                    due = end + max(_SAVE_AFTER, _SAVE_FACTOR * (end - start))
        finally:  # also when interrupted, so that finished work is kept
            self._save()

    def _describe_image(self, entry: Entry) -> None:
        try:
            image = read_masked(self._index.root / entry.name).image
            descriptor = self._describer(image).half()
            if not descriptor.any():  # its score of 0 would exceed that of many real matches
                raise ValueError("nothing in it can be described")
            self._new.append(descriptor)
        except (ValueError, OSError) as error:
            self._index.failed.append(Failure(entry, message_of(error)))
            self.report.failed += 1
        else:
            self._index.entries.append(entry)
            self.report.described += 1

    def _notify(self, progress: ProgressCallback | None) -> None:
        if progress:
            report = self.report
            done = report.kept + report.described + report.failed
            progress("index", done, report.total)

    def _save(self) -> None:
        index = self._index
        if self._new:
            # An interruption may come after a descriptor is added and before its entry is.
            added = torch.stack(self._new[: len(index.entries) - len(index.descriptors)])
            old = index.descriptors if len(index.descriptors) else added[:0]
            index.descriptors = torch.cat([old, added])
            self._new.clear()
        if self._path is not None:
            write_index(self._path, index)


def list_images_below(folder: FilePath) -> list[Entry]:
    """List the images in a folder and its subfolders, sorted by name; hidden ones are skipped.

    Args:
        folder: The folder.

    Raises:
        FileNotFoundError: The folder does not exist.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    entries = []
    paths = sorted(root.rglob("*"))
    warn_of_other_kinds(root, paths)
    for path in paths:
        name = path.relative_to(root)
        is_hidden = any(part.startswith(".") for part in name.parts)
        if is_hidden or path.suffix.lower() not in READ_SUFFIXES or not path.is_file():
            continue
        status = path.stat()
        entries.append(Entry(name.as_posix(), status.st_size, status.st_mtime_ns))
    return sorted(entries)
