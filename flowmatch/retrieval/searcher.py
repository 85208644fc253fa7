"""Search of an index: nearest descriptors, query expansion, geometric verification."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from flowmatch.imaging import Image, check_image
from flowmatch.io._files import FilePath
from flowmatch.io._white import white_in_force, white_level
from flowmatch.io.masked import read_masked
from flowmatch.ops import nearest
from flowmatch.retrieval.describe import describer_of
from flowmatch.retrieval.expansion import augment_database, expand_queries
from flowmatch.retrieval.index import Index, read_index
from flowmatch.retrieval.results import Result
from flowmatch.retrieval.verify import MIN_INLIERS, Verifier, rerank

_APPROXIMATE_ABOVE = 500_000  # descriptors; larger indexes are searched by faiss if it is installed
_VERIFIED = 50  # results that are verified


def search(
    index: Index | FilePath,
    image: ArrayLike | FilePath,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    count: int = 11,
    verify: bool = False,
    expand: int = 0,
    augment: int = 0,
    approximate: bool | None = None,
) -> list[Result]:
    """Find the images of an index that show the same object as an image.

    Args:
        index: An index, or its file.
        image: File, or uint8 image: RGB ``[H, W, 3]`` or gray ``[H, W]``.
        model: Model that the index was made with, as `build_index` takes it. ``"default"`` is
            enough unless that was a file or a module of your own.
        device: Device of the network; None takes a GPU if torch can use one, and leaves a given
            network where it is.
        count: Maximum number of results.
        verify: Whether to match the image with the first 50 results; those with enough inliers
            come first.
        expand: Number of first results that are averaged with the query for a second search.
        augment: Number of neighbours with which each descriptor of the index is averaged.
        approximate: Whether to search by faiss, see `Searcher`.

    Returns:
        Results, the best first.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: The index is empty or damaged or was made with another model, or nothing in the
            image can be described.
        ImportError: `approximate` is true, and faiss is not installed.

    Example:
        >>> import tempfile
        >>> from flowmatch.io import write_image
        >>> from flowmatch.retrieval import VladOptions, build_index
        >>> folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
        >>> for name in ("a", "b"):
        ...     texture = rng.integers(0, 255, (12, 12), np.uint8)
        ...     write_image(folder / f"{name}.png", np.kron(texture, np.ones((8, 8), np.uint8)))
        >>> index = build_index(folder, model="rootsift", options=VladOptions(words=4))
        >>> [result.name for result in search(index, folder / "b.png", count=1)]
        ['b.png']
    """
    if not isinstance(index, Index):
        index = read_index(index)
    describer = describer_of(index.about, model, device=device)
    describer.restore(index.state)
    searcher = Searcher(index, augment=augment, approximate=approximate)
    candidates = _VERIFIED if verify else count
    with white_level(white_in_force() or index.white):
        query = read_query(image)
        results = searcher.search(describer(query), max(candidates, count), expand=expand)
        if verify:
            results = verify_geometry(results, query, index.root, candidates=candidates)
    return results[:count]


def read_query(image: ArrayLike | FilePath) -> Image:
    """Return an image given as a file or as pixels.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not an image.
    """
    if isinstance(image, str | os.PathLike):
        return read_masked(image).image
    return check_image(image)


class Searcher:
    """Descriptors of an index, prepared for many searches.

    Images whose descriptor is zero, because nothing in them could be described, are never results.

    Args:
        index: The index.
        augment: Number of neighbours with which each descriptor is averaged, see
            `augment_database`.
        alpha: Exponent of similarities in this average and in query expansion.
        approximate: Whether to search by faiss, in the nearest of many cells only; None does so
            if faiss is installed and there are more than 500,000 images.

    Raises:
        ValueError: The index is empty.
        ImportError: `approximate` is true, and faiss is not installed.
    """

    def __init__(
        self,
        index: Index,
        *,
        augment: int = 0,
        alpha: float = 3.0,
        approximate: bool | None = None,
    ) -> None:
        described = index.descriptors.any(1)  # a score of 0 would exceed that of many real matches
        if not described.all():
            entries = [entry for entry, kept in zip(index.entries, described, strict=True) if kept]
            index = replace(index, entries=entries, descriptors=index.descriptors[described])
        if not index.entries:
            raise ValueError("the index is empty")
        self.index, self.alpha = index, alpha
        self.reference = F.normalize(index.descriptors.float(), dim=1)
        if augment:
            self.reference = augment_database(self.reference, augment, alpha=alpha)
        if approximate is None:
            approximate = (
                len(index.entries) > _APPROXIMATE_ABOVE
                and importlib.util.find_spec("faiss") is not None
            )
        self._cells = _faiss_cells(self.reference) if approximate else None

    def search(self, query: Tensor, k: int = 12, *, expand: int = 0) -> list[Result]:
        """Find the `k` most similar images, the best first.

        Args:
            query: Descriptor ``[D]`` of the query.
            k: Number of results.
            expand: Number of first results that are added to the query for a second search.

        Returns:
            At most `k` results.

        Raises:
            ValueError: The query has another length or is zero, `k` is not positive, or `expand` is
                negative.
        """
        if query.shape != self.reference.shape[1:]:
            raise ValueError(
                f"the descriptor of the query has shape {list(query.shape)}, "
                f"expected {list(self.reference.shape[1:])}"
            )
        if not query.any():
            raise ValueError("nothing in the query can be described")
        if k < 1 or expand < 0:
            raise ValueError(f"k must be positive and expand not negative, got {k} and {expand}")
        queries = F.normalize(query.float()[None], dim=1)
        if expand:
            queries = expand_queries(queries, self.reference, expand, alpha=self.alpha)
        k = min(k, len(self.reference))
        if self._cells is not None:
            scores, indices = self._cells(queries.numpy(), k)
        else:
            neighbours = nearest(queries, self.reference, k, "dot")
            scores, indices = neighbours.distance.numpy(), neighbours.index.numpy()
        pairs = zip(indices[0].tolist(), scores[0].tolist(), strict=True)
        return [Result(self.index.entries[i].name, score) for i, score in pairs if i >= 0]


def _faiss_cells(reference: Tensor) -> Callable[[NDArray[np.float32], int], Any]:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("approximate search needs faiss: pip install faiss-cpu") from error
    vectors = reference.numpy()
    cells = max(1, int(4 * len(vectors) ** 0.5) if len(vectors) > 10_000 else len(vectors) // 39)
    coarse = faiss.IndexFlatIP(vectors.shape[1])
    index = faiss.IndexIVFFlat(coarse, vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    index.nprobe = max(8, cells // 16)
    return lambda queries, k: index.search(queries, k)


def verify_geometry(
    results: Sequence[Result],
    query: ArrayLike,
    root: Path,
    *,
    candidates: int = _VERIFIED,
    min_inliers: int = MIN_INLIERS,
) -> list[Result]:
    """Match the query with the first results, and move those with enough inliers to the front.

    Args:
        results: Results, the best first.
        query: uint8 image.
        root: Folder of the results.
        candidates: Number of first results to match.
        min_inliers: Smallest number of inliers of a verified result.

    Returns:
        All results with their inliers: 0 for files that cannot be read, None for results that were
        not matched.
    """
    verifier = Verifier(query)

    def inliers(place: int) -> int:
        try:
            return verifier.inliers(read_masked(root / results[place].name).image)
        except (ValueError, OSError):
            return 0

    order = rerank(len(results), inliers, candidates=candidates, min_inliers=min_inliers)
    return [results[k]._replace(inliers=count if count >= 0 else None) for k, count in order]
