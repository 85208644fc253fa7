"""Evaluation of describers on random views of photographs."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from flowmatch.imaging import Image, as_gray, resize
from flowmatch.io import read_image
from flowmatch.matching.synthetic.views import apply_camera_noise, random_view, warp_perspective
from flowmatch.progress import ProgressCallback
from flowmatch.retrieval.describe import Describer
from flowmatch.retrieval.evaluation.metrics import Truth, mean_average_precision
from flowmatch.retrieval.expansion import augment_database, expand_queries

_VIEW_SIZE = (240, 320)  # height and width


class Gallery(NamedTuple):
    """Queries, images to search, and the correct results.

    Attributes:
        queries: One view of each photograph.
        images: Further views, which are searched.
        truths: Correct results of each query, indices into `images`.
    """

    queries: list[Image]
    images: list[Image]
    truths: list[Truth]


class Scores(NamedTuple):
    """Scores of one describer.

    Attributes:
        dim: Dimensions of a descriptor.
        mean_ap: Mean average precision, 0 to 1.
        first: Fraction of queries whose first result is correct.
        expanded: Mean average precision with query expansion by 2.
        augmented: Mean average precision with query expansion and database augmentation by 2.
        seconds: Mean time to describe an image.
    """

    dim: int
    mean_ap: float
    first: float
    expanded: float
    augmented: float
    seconds: float


def make_views(photo: Image, count: int, seed: int | Sequence[int]) -> list[Image]:
    """Render a photograph from random viewpoints, with random light and camera noise.

    Args:
        photo: uint8 ``[H, W, 3]`` or gray.
        count: Number of views.
        seed: Random seed of the views.

    Returns:
        Gray views ``[240, 320]``, tilted by up to 62 degrees, at scales from half to twice.

    Example:
        >>> [view.shape for view in make_views(np.zeros((90, 90, 3), np.uint8), 2, 0)]
        [(240, 320), (240, 320)]
    """
    rng = np.random.default_rng(seed)
    gray = as_gray(photo)
    height, width = _VIEW_SIZE
    scale = max(height / gray.shape[0], width / gray.shape[1])
    size = (max(width, round(gray.shape[1] * scale)), max(height, round(gray.shape[0] * scale)))
    # The photograph continues beyond the edges of a view.
    enlarged = resize(gray, size)
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    offset = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])
    return [
        apply_camera_noise(
            rng,
            warp_perspective(enlarged, random_view(rng, height, width) @ offset, height, width),
        )
        for _ in range(count)
    ]


def make_gallery(photos: Sequence[Path], views: int = 5, seed: int = 0) -> Gallery:
    """Render views of photographs; the first of each is a query, the others are searched.

    Args:
        photos: Files of photographs.
        views: Number of views of each photograph, at least 2.
        seed: Random seed of the views.

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
        start = len(gallery.images)
        gallery.queries.append(query)
        gallery.images.extend(others)
        gallery.truths.append(Truth(tuple(range(start, start + len(others))), (), ()))
    return gallery


def evaluate(
    describers: Mapping[str, Describer],
    gallery: Gallery,
    training_images: Sequence[Image] | None = None,
    *,
    progress: ProgressCallback | None = None,
) -> dict[str, Scores]:
    """Search a gallery by each describer.

    Args:
        describers: Describers by name.
        gallery: Queries and images.
        training_images: Images from which describers learn; None takes those of the gallery, as an
            index does.
        progress: Called after each image.

    Returns:
        Scores by name.
    """
    done, total = 0, len(describers) * (len(gallery.queries) + len(gallery.images))
    scores = {}
    for name, describer in describers.items():
        describer.fit(gallery.images if training_images is None else training_images)
        start = time.perf_counter()
        descriptors = []
        for image in (*gallery.queries, *gallery.images):
            descriptors.append(describer(image))
            done += 1
            if progress:
                progress("describing", done, total)
        seconds = (time.perf_counter() - start) / len(descriptors)
        count = len(gallery.queries)
        queries, reference = torch.stack(descriptors[:count]), torch.stack(descriptors[count:])
        augmented = augment_database(reference, 2, alpha=3.0)
        plain = _rank(queries, reference, gallery)
        expanded = _rank(expand_queries(queries, reference, 2, alpha=3.0), reference, gallery)
        both = _rank(expand_queries(queries, augmented, 2, alpha=3.0), augmented, gallery)
        scores[name] = Scores(
            queries.shape[1], plain["mAP/easy"], plain["mP@1/easy"], expanded["mAP/easy"],
            both["mAP/easy"], seconds,
        )  # fmt: skip
    return scores


def _rank(queries: torch.Tensor, reference: torch.Tensor, gallery: Gallery) -> dict[str, float]:
    order = (queries @ reference.T).argsort(dim=1, descending=True, stable=True)
    return mean_average_precision(order.tolist(), gallery.truths)
