"""Evaluation of alignment methods on pairs with a known transform."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from flowmatch.align.estimate import align_images
from flowmatch.align.metrics import grid_distance, pck_box, pck_scnet
from flowmatch.align.synthetic import AlignSample, SyntheticPairs
from flowmatch.align.transforms import corner_grid, transform_points
from flowmatch.progress import ProgressCallback

ALPHA = 0.1


class AlignScores(NamedTuple):
    """Scores of one method, means over pairs.

    Attributes:
        pck_box: `metrics.pck_box` of the grid's points, 0 to 1.
        pck_scnet: `metrics.pck_scnet` of the grid's points, 0 to 1.
        distance: `metrics.grid_distance`, half images.
        median: Median over pairs of the distance, robust to single failures.
        found: Share of pairs for which the method found a transform.
    """

    pck_box: float
    pck_scnet: float
    distance: float
    median: float
    found: float


def evaluate(
    methods: Mapping[str, str | Path | nn.Module],
    samples: SyntheticPairs,
    pairs: int,
    progress: ProgressCallback | None = None,
) -> dict[str, AlignScores]:
    """Evaluate methods on the first `pairs` samples.

    Args:
        methods: Models for `align_images` by name.
        samples: Pairs with their true transforms.
        pairs: Number of pairs.
        progress: Called with the stage ``"evaluate"`` and the number of pairs done.

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
        for name, model in methods.items():
            rows[name].append(_scores(model, sample))
        if progress is not None:
            progress("evaluate", index + 1, pairs)
    return {name: _means(np.array(row)) for name, row in rows.items()}


def _scores(model: str | Path | nn.Module, sample: AlignSample) -> list[float]:
    alignment = align_images(sample.first, sample.second, model=model)
    truth = [torch.from_numpy(theta)[None] for theta in (sample.affine, sample.thin_plate)]
    size = sample.second.shape[0]
    grid = corner_grid()[None]
    moved, target = (
        _pixels(transform_points(stages, grid), size) for stages in (alignment.stages, truth)
    )
    return [
        pck_box(moved, target, target, ALPHA).item(),
        pck_scnet(moved, target, (size, size), ALPHA).item(),
        grid_distance(alignment.stages, truth).item(),
        float(alignment.found),
    ]


def _pixels(points: Tensor, size: int) -> Tensor:
    return ((points + 1) * size - 1) / 2


def _means(rows: Any) -> AlignScores:
    box, scnet, distance, found = rows.mean(0).tolist()
    return AlignScores(box, scnet, distance, float(np.median(rows[:, 2])), found)
