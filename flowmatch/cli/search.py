"""``flowmatch search``: pictures of the same thing, from an index."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._messages import (
    messages,
)
from flowmatch.cli._options import (
    DeviceName,
    check_target,
)
from flowmatch.io import IMAGE_SUFFIXES, read_image, write_image
from flowmatch.retrieval.index import read_index
from flowmatch.retrieval.results import RESULT_SUFFIXES, results_sheet, write_results
from flowmatch.retrieval.searcher import search


def command(
    picture: Annotated[Path, typer.Argument(help="What to look for.")],
    index: Annotated[
        Path, typer.Option("-i", "--index", help="What flowmatch index wrote.")
    ] = Path("index.safetensors"),
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            help="What to write: a contact sheet (.png, .jpg), the list (.json, .csv); may be "
            "given several times.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[int, typer.Option("-k", "--count", min=1, help="How many to show.")] = 11,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Match the first 50 with the picture; what agrees comes first."
        ),
    ] = False,
    expand: Annotated[
        int, typer.Option(min=0, help="Search again with that many of the first added.")
    ] = 0,
    augment: Annotated[
        int, typer.Option(min=0, help="Average what is indexed with that many neighbours.")
    ] = 0,
    approximate: Annotated[
        bool | None,
        typer.Option(
            "--approximate/--exact",
            help="Search by faiss in the nearest cells only; else above 500,000 pictures.",
            show_default=False,
        ),
    ] = None,
    descriptor: Annotated[
        str,
        typer.Option(help="The file of weights, if the index was made with one."),
    ] = "default",
    weights: Annotated[
        Path | None,
        typer.Option(help="And that of flowmatch train retrieval.", show_default=False),
    ] = None,
    device: DeviceName = None,
) -> None:
    """Find pictures that show the same thing: score, points that agree, name."""
    for path in output or []:
        check_target(path, (*IMAGE_SUFFIXES, *RESULT_SUFFIXES))
    query = read_image(picture)
    content = read_index(index)
    results = search(
        content, query, model=weights or descriptor, device=device, count=count, verify=verify,
        expand=expand, augment=augment, approximate=approximate,
    )  # fmt: skip
    for name, score, inliers in results:
        typer.echo(f"{score:.4f}\t{'' if inliers is None else inliers}\t{name}")
    for path in output or []:
        if path.suffix.lower() in RESULT_SUFFIXES:
            write_results(path, str(picture), results)
        else:
            write_image(path, results_sheet(query, results, content.root))
    if output:
        messages.print(f"{len(results)} found, in {', '.join(map(str, output))}")
