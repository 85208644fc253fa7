"""Lists of pairs for ``flowmatch match``: which pairs, their run, and what is printed."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import typer
from rich.progress import TextColumn

from flowmatch.cli._messages import messages, progress_bar, report_interrupt
from flowmatch.io import list_images
from flowmatch.matching.colmap import Camera, check_colmap_names, write_colmap
from flowmatch.matching.options import MatchOptions
from flowmatch.matching.pair_generators import all_pairs, sequential_pairs
from flowmatch.matching.pair_list import Pair, PairReport, match_pairs, read_pairs
from flowmatch.progress import counted
from flowmatch.retrieval.index import read_index
from flowmatch.retrieval.pairs import similar_pairs

_FAILURES = TextColumn("{task.fields[failed]}")


class PairSource(NamedTuple):
    """Where the pairs come from: one of the four is given.

    Attributes:
        pairs: ``--pairs``, a text file.
        all: ``--all``, all pairs of a folder.
        sequential: ``--sequential``, number of following images of a folder.
        retrieval: ``--retrieval``, an index and the number of similar images.
    """

    pairs: Path | None
    all: bool
    sequential: int | None
    retrieval: tuple[Path, int] | None

    def names(self) -> list[str]:
        """Return the names of the options that are given."""
        given = {
            "--pairs": self.pairs is not None,
            "--all": self.all,
            "--sequential": self.sequential is not None,
            "--retrieval": self.retrieval is not None,
        }
        return [name for name, is_given in given.items() if is_given]

    def read(self, folder: Path | None) -> tuple[list[Pair], Path]:
        """Return the pairs, and the folder that their names are relative to.

        Args:
            folder: Folder of the images; None takes that of the list or of the index.

        Raises:
            ValueError: The folder is missing, or there is no pair.
            FileNotFoundError: A file or the folder does not exist.
        """
        if self.pairs is not None:
            return read_pairs(self.pairs), folder or self.pairs.parent
        if self.retrieval is not None:
            path, count = self.retrieval
            index = read_index(path)
            return similar_pairs(index, count), folder or index.root
        if folder is None:
            raise ValueError(f"{self.names()[0]} needs a FOLDER of images")
        names = [file.name for file in list_images(folder)]
        if len(names) < 2:
            raise ValueError(f"pairs need two images, {folder} holds {len(names)}")
        if self.sequential is not None:
            return sequential_pairs(names, self.sequential), folder
        return all_pairs(names), folder


def folder_of(name: str, paths: Sequence[Path]) -> Path | None:
    """Return the folder of the images of a list, or None if none is given.

    Args:
        name: Option that makes the list, for messages.
        paths: What was given, by position or by --root.

    Raises:
        ValueError: There are several paths.
        FileNotFoundError: The folder does not exist.
    """
    if len(paths) > 1:
        raise ValueError(f"{name} takes one folder of images, got {len(paths)} paths")
    if paths and not paths[0].is_dir():
        raise FileNotFoundError(f"there is no folder {paths[0]}")
    return paths[0] if paths else None


def match_list(
    source: tuple[list[Pair], Path],
    output: Path,
    *,
    model: str,
    device: torch.device,
    options: MatchOptions,
    masks: Path | None,
    colmap: bool,
    camera: Camera | None,
    overwrite: bool,
) -> None:
    """Match a list of pairs, print what was kept and where, and set the exit status.

    Args:
        source: Pairs, and the folder of their images.
        output: Folder to write.
        model: Descriptor.
        device: Device of the networks.
        options: Options of `match_images`.
        masks: Folder of masks.
        colmap: Whether files for COLMAP are written, too.
        camera: Intrinsics of all images for COLMAP.
        overwrite: Whether pairs whose files exist are matched again.

    Raises:
        ValueError: No pair can be matched.
    """
    pairs, root = source
    if colmap:
        if options.matcher == "loftr":
            raise ValueError(
                "--colmap needs the same keypoints of an image in all pairs; matcher loftr finds "
                "others in each"
            )
        check_colmap_names(pairs)
    report = PairReport()
    with progress_bar(_FAILURES) as bar:
        task = bar.add_task("match", total=len(pairs), failed="")

        def progress(stage: str, done: int, total: int | None) -> None:
            failed = f"{len(report.failed)} failed" if report.failed else ""
            bar.update(task, completed=done, failed=failed)

        with report_interrupt(bar, lambda: _summary(report, output)):
            match_pairs(
                pairs, root, output, masks=masks, model=model, device=device, options=options,
                overwrite=overwrite, report=report, progress=progress,
            )  # fmt: skip
    for pair, reason in report.failed:
        messages.print(f"failed: {pair.first} {pair.second}: {reason}")
    if len(report.failed) == len(pairs):
        raise ValueError(f"no pair of {len(pairs)} can be matched")
    if colmap:
        write_colmap(output / "colmap", output, pairs, root, camera=camera)
    messages.print(_summary(report, output) + (", with colmap/" if colmap else ""))
    if report.trusted == 0:
        raise typer.Exit(1)


def _summary(report: PairReport, folder: Path) -> str:
    line = f"{counted(report.computed, 'pair')} matched"
    if report.kept:
        line += f", {report.kept} existed already"
    if report.failed:
        line += f", {len(report.failed)} failed"
    if report.computed + report.kept:
        line += f"; a geometry was found for {report.trusted}"
    return f"{line}, in {folder}"
