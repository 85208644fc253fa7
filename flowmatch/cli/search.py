"""``flowmatch search``: pictures of the same thing, from an index."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._messages import (
    messages,
)
from flowmatch.cli._networks import descriptor_name, descriptor_network
from flowmatch.cli._options import (
    DeviceName,
    check_target,
)
from flowmatch.io import IMAGE_SUFFIXES, read_image, write_image
from flowmatch.retrieval.describe import describer_of
from flowmatch.retrieval.index import read_index
from flowmatch.retrieval.network import find_network
from flowmatch.retrieval.search import (
    RESULT_SUFFIXES,
    Searcher,
    results_sheet,
    verify_results,
    write_results,
)


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
    describer = describer_of(
        content.about,
        descriptor_network(descriptor, device),
        descriptor_name(descriptor),
        find_network(weights, device) if weights else None,
    )
    describer.restore(content.state)
    searcher = Searcher(content, augment=augment, approximate=approximate)
    most = 50 if verify else count
    results = searcher.search(describer(query), max(most, count), expand=expand)
    if verify:
        results = verify_results(results, query, content.root, most=most)
    results = results[:count]
    for name, score, inliers in results:
        typer.echo(f"{score:.4f}\t{'' if inliers is None else inliers}\t{name}")
    for path in output or []:
        if path.suffix.lower() in RESULT_SUFFIXES:
            write_results(path, str(picture), results)
        else:
            write_image(path, results_sheet(query, results, content.root))
    if output:
        messages.print(f"{len(results)} found, in {', '.join(map(str, output))}")
