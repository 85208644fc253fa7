"""Methods beside each other on pairs with a known transform."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from flowmatch.align.estimate import align_images
from flowmatch.align.metrics import grid_distance, pck_box, pck_scnet
from flowmatch.align.synthetic import AlignSample, SyntheticPairs
from flowmatch.align.transforms import corner_grid, transform_points

ALPHA = 0.1


class Scores(NamedTuple):
    """Means over pairs.

    Attributes:
        pck_box: `metrics.pck_box` of the grid's points, 0 to 1.
        pck_scnet: `metrics.pck_scnet` of the same.
        distance: `metrics.grid_distance`, half pictures.
        median: Of the pairs' distances: one bad failure does not hide the rest.
        found: Share of pairs for which the method gave a transform.
    """

    pck_box: float
    pck_scnet: float
    distance: float
    median: float
    found: float


def evaluate(
    methods: Mapping[str, nn.Module | str],
    samples: SyntheticPairs,
    pairs: int,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Scores]:
    """Measure methods on the first `pairs` samples.

    Args:
        methods: What `align_images` takes, by name.
        samples: Pairs with their truth.
        pairs: How many.
        progress: Called with the number of pairs done.

    Returns:
        Scores by name, over the same 20 x 20 points of each pair.

    Raises:
        ValueError: `pairs` is below 1.
    """
    if pairs < 1:
        raise ValueError(f"at least one pair is needed, got {pairs}")
    rows: dict[str, list[list[float]]] = {name: [] for name in methods}
    for index in range(pairs):
        sample = samples[index]
        for name, method in methods.items():
            rows[name].append(_scores(method, sample))
        progress(index + 1)
    return {name: _means(np.array(row)) for name, row in rows.items()}


def _scores(method: Any, sample: AlignSample) -> list[float]:
    alignment = align_images(method, sample.first, sample.second)
    truth = [torch.from_numpy(theta)[None] for theta in (sample.affine, sample.thin_plate)]
    size = sample.second.shape[0]
    grid = corner_grid()[None]
    moved, target = (_pixels(transform_points(stages, grid), size) for stages in (alignment.stages, truth))
    return [
        pck_box(moved, target, target, ALPHA).item(),
        pck_scnet(moved, target, (size, size), ALPHA).item(),
        grid_distance(alignment.stages, truth).item(),
        float(alignment.found),
    ]


def _pixels(points: Tensor, size: int) -> Tensor:
    return ((points + 1) * size - 1) / 2


def _means(rows: Any) -> Scores:
    box, scnet, distance, found = rows.mean(0).tolist()
    return Scores(box, scnet, distance, float(np.median(rows[:, 2])), found)
