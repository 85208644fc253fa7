"""Describers beside each other on views of photographs that are known to be of the same thing."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.io import read_image
from flowmatch.matching.synthetic.views import apply_camera_noise, random_view, warp_perspective
from flowmatch.retrieval.describe import Describer
from flowmatch.retrieval.expansion import augment_database, expand_queries
from flowmatch.retrieval.metrics import Truth, mean_average_precision

Image = NDArray[np.uint8]

_SIZE = (240, 320)  # of a view


class Gallery(NamedTuple):
    """Pictures to search for and to search among, and what is to be found.

    Attributes:
        queries: One of each photograph.
        pictures: Searched.
        truths: Of each query.
    """

    queries: list[Image]
    pictures: list[Image]
    truths: list[Truth]


class Scores(NamedTuple):
    """Of one describer.

    Attributes:
        dim: Numbers a picture.
        mean_ap: Mean average precision, 0 to 1.
        first: Share of queries whose first result is right.
        expanded: Mean average precision with query expansion by 2.
        augmented: And with the database augmented by 2.
        seconds: Of describing a picture, the mean.
    """

    dim: int
    mean_ap: float
    first: float
    expanded: float
    augmented: float
    seconds: float


def make_views(photo: Image, count: int, seed: int | Sequence[int]) -> list[Image]:
    """Show a photograph from random sides, in other light, through another camera.

    Args:
        photo: uint8 ``[H, W, 3]`` or gray.
        count: How many.
        seed: Of the views.

    Returns:
        Gray views ``[240, 320]``, tilted by up to 62 degrees and half to twice as large.

    Example:
        >>> [view.shape for view in make_views(np.zeros((90, 90, 3), np.uint8), 2, 0)]
        [(240, 320), (240, 320)]
    """
    rng = np.random.default_rng(seed)
    gray = photo if photo.ndim == 2 else cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    height, width = _SIZE
    scale = max(height / gray.shape[0], width / gray.shape[1])
    size = (max(width, round(gray.shape[1] * scale)), max(height, round(gray.shape[0] * scale)))
    # What lies beyond the view's edges is really there as far as the photograph goes.
    whole = np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    away = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])
    return [
        apply_camera_noise(rng, warp_perspective(whole, random_view(rng, height, width) @ away, height, width))
        for _ in range(count)
    ]


def make_gallery(photos: Sequence[Path], views: int = 5, seed: int = 0) -> Gallery:
    """Make views of photographs; the first of each is a query, the others are searched.

    Args:
        photos: Files.
        views: Of each, at least 2.
        seed: Of the views.

    Raises:
        ValueError: There are too few views or photographs.
    """
    if views < 2 or not photos:
        raise ValueError(
            f"at least 2 views of at least one photograph are needed, got {views} of {len(photos)}"
        )
    gallery = Gallery([], [], [])
    for number, photo in enumerate(photos):
        query, *others = make_views(read_image(photo), views, [seed, number])
        start = len(gallery.pictures)
        gallery.queries.append(query)
        gallery.pictures.extend(others)
        gallery.truths.append(Truth(tuple(range(start, start + len(others))), (), ()))
    return gallery


def evaluate(
    describers: Mapping[str, Describer],
    gallery: Gallery,
    words_from: Sequence[Image] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Scores]:
    """Search a gallery by each describer.

    Args:
        describers: By name.
        gallery: What to search.
        words_from: Pictures that visual words are learnt from; the gallery itself if not given, as
            an index does.
        progress: Called with the number of pictures described.

    Returns:
        Scores by name.
    """
    done = 0
    scores = {}
    for name, describer in describers.items():
        describer.fit(gallery.pictures if words_from is None else words_from)
        began = time.perf_counter()
        described = []
        for picture in (*gallery.queries, *gallery.pictures):
            described.append(describer(picture))
            done += 1
            progress(done)
        seconds = (time.perf_counter() - began) / len(described)
        count = len(gallery.queries)
        queries, reference = torch.stack(described[:count]), torch.stack(described[count:])
        augmented = augment_database(reference, 2, alpha=3.0)
        plain = _rank(queries, reference, gallery)
        more = _rank(expand_queries(queries, reference, 2, alpha=3.0), reference, gallery)
        both = _rank(expand_queries(queries, augmented, 2, alpha=3.0), augmented, gallery)
        scores[name] = Scores(
            queries.shape[1], plain["mAP/easy"], plain["mP@1/easy"], more["mAP/easy"],
            both["mAP/easy"], seconds,
        )  # fmt: skip
    return scores


def _rank(queries: torch.Tensor, reference: torch.Tensor, gallery: Gallery) -> dict[str, float]:
    order = (queries @ reference.T).argsort(dim=1, descending=True, stable=True)
    return mean_average_precision(order.tolist(), gallery.truths)
