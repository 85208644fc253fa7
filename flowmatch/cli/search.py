"""``flowmatch search``: pictures of the same thing, from an index."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._messages import StageBars, messages, progress_bar
from flowmatch.cli._options import (
    INPUT,
    MODEL,
    OUTPUT,
    DeviceName,
    WhiteLevel,
    check_target,
)
from flowmatch.io import IMAGE_SUFFIXES, white_level, write_image
from flowmatch.progress import counted
from flowmatch.retrieval.duplicates import DUPLICATE_SUFFIXES, find_duplicates, write_duplicates
from flowmatch.retrieval.index import Index, read_index
from flowmatch.retrieval.results import RESULT_SUFFIXES, results_sheet, write_results
from flowmatch.retrieval.searcher import read_query, search
from flowmatch.retrieval.verify import MIN_INLIERS

EXAMPLES = (
    "flowmatch search query.jpg -i photos.safetensors -o sheet.png",
    "flowmatch search --duplicates -i photos.safetensors -o duplicates.csv",
)
SEARCH = "Search"


def command(
    picture: Annotated[
        Path | None,
        typer.Argument(metavar="[PICTURE]", help="Picture to search for.", show_default=False),
    ] = None,
    index: Annotated[
        Path,
        typer.Option(
            "-i", "--index", help="Index that flowmatch index wrote.", rich_help_panel=INPUT
        ),
    ] = Path("index.safetensors"),
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            help="File to write: a contact sheet (.png, .jpg), the list (.json, .csv), or pairs "
            "for flowmatch match --pairs (.txt); may be given several times.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            "-k", "--count", min=1, help="Number of results to show.", rich_help_panel=OUTPUT
        ),
    ] = 11,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Geometric verification: the first 50 results are matched with the picture, and "
            "those that agree come first.",
            rich_help_panel=SEARCH,
        ),
    ] = False,
    duplicates: Annotated[
        bool,
        typer.Option(
            "--duplicates",
            help="Without PICTURE: find pictures of the index that are copies of each other, or of "
            "a part: encoded again, resized, cropped, turned.",
            rich_help_panel=SEARCH,
        ),
    ] = False,
    expand: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of first results that are added to the query for a second search.",
            rich_help_panel=SEARCH,
        ),
    ] = 0,
    augment: Annotated[
        int,
        typer.Option(
            "--augment-index",
            min=0,
            help="Number of neighbours with which each picture of the index is averaged.",
            rich_help_panel=SEARCH,
        ),
    ] = 0,
    approximate: Annotated[
        bool | None,
        typer.Option(
            "--approximate/--exact",
            help="Search by faiss in the nearest cells only, or exact search.",
            show_default="approximate above 500,000 pictures",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    white: WhiteLevel = None,
    model: Annotated[
        str,
        typer.Option(
            help="Descriptor of the index; needed only if it was a file.",
            show_default="as in the index",
            rich_help_panel=MODEL,
        ),
    ] = "default",
    device: DeviceName = None,
) -> None:
    """Find pictures that show the same thing as another one.

    --duplicates compares the pictures of the index with each other instead; each line then has the
    share of the smaller picture that the other shows, the correlation there, and both names.

    Each line has the cosine similarity of the descriptors, the number of points that agree (with
    --verify), and the name. Unrelated pictures have similarities around 0, also negative ones. The
    status is 1 if --verify confirms no result, or there are no duplicates.
    """
    if (picture is None) != duplicates:
        raise ValueError("expected either a PICTURE or --duplicates")
    suffixes = DUPLICATE_SUFFIXES if duplicates else (*IMAGE_SUFFIXES, *RESULT_SUFFIXES)
    for path in output or []:
        check_target(path, suffixes)
    content = read_index(index)
    if picture is None:
        _find_duplicates(content, output or [], white)
        return
    with white_level(white or content.white):
        query = read_query(picture)
        results = search(
            content, query, model=model, device=device, count=count, verify=verify,
            expand=expand, augment=augment, approximate=approximate,
        )  # fmt: skip
        for name, score, inliers in results:
            typer.echo(f"{score:.4f}\t{'' if inliers is None else inliers}\t{name}")
        for path in output or []:
            if path.suffix.lower() in RESULT_SUFFIXES:
                write_results(path, _name_of(picture, path, content), results)
            else:
                write_image(path, results_sheet(query, results, content.root))
    if output:
        messages.print(f"{len(results)} results, in {', '.join(map(str, output))}")
    if verify and not any((result.inliers or 0) >= MIN_INLIERS for result in results):
        messages.print(f"no result has {MIN_INLIERS} points that agree")
        raise typer.Exit(1)


def _name_of(picture: Path, target: Path, index: Index) -> str:
    """Return the name of the query for a file of results; in pairs, below the index's folder."""
    if target.suffix.lower() != ".txt":
        return str(picture)
    whole, root = picture.resolve(), index.root.resolve()
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else str(whole)


def _find_duplicates(index: Index, output: list[Path], white: int | None) -> None:
    with white_level(white or index.white), progress_bar(transient=True) as bar:
        found = find_duplicates(index, progress=StageBars(bar))
    for pair in found:
        typer.echo(f"{pair.overlap:.2f}\t{pair.correlation:.4f}\t{pair.first}\t{pair.second}")
    for path in output:
        write_duplicates(path, found)
    messages.print(f"{counted(len(found), 'pair')} of copies among {len(index.entries)} pictures")
    if not found:
        raise typer.Exit(1)
