"""Evaluation of an embedding by retrieval of the same object in other frames, with baselines."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from flowmatch._opencv import cv2
from flowmatch.draw import contact_sheet
from flowmatch.imaging import Image, resize
from flowmatch.metric_learning.protocol import Estimate, estimate
from flowmatch.metric_learning.tuples import check_tensors
from flowmatch.metrics import average_precision
from flowmatch.progress import ProgressCallback
from flowmatch.selfsupervised.patches import TrackedPatches

_BATCH = 128
_BINS = 8  # histogram bins of each colour channel
_STRIPES = 4  # horizontal stripes of a patch
_SIDE = 140  # side of a patch on the contact sheet, pixels


@dataclass(frozen=True)
class VideoScores:
    """Retrieval scores in 0..1, as means over tracks.

    Attributes:
        recall_at_1: Share of queries whose nearest patch shows the same object.
        map: Mean average precision.
        chance: Expected R@1 of a random order.
        tracks: Number of tracks with queries.
        queries: Number of queries.
    """

    recall_at_1: Estimate
    map: Estimate
    chance: float
    tracks: int
    queries: int


def score_patches(embeddings: Tensor, patches: TrackedPatches, gap: int = 10) -> VideoScores:
    """Measure retrieval of each patch among the others, by cosine similarity.

    Relevant are patches of the same track at least `gap` frames away, so that identical pixels are
    not enough; irrelevant are patches of tracks that certainly show another object. All other
    patches are ignored, because it is unknown what they show. All tracks have the same weight.

    Args:
        embeddings: Embeddings of the patches, ``[P, D]``.
        patches: The patches.
        gap: Least number of frames between a query and a relevant patch.

    Returns:
        Means over tracks, with 95 % confidence intervals.

    Raises:
        ValueError: The shape does not fit, or no query has relevant and irrelevant patches.
    """
    check_tensors(embeddings=embeddings)
    if embeddings.dim() != 2 or len(embeddings) != len(patches):
        raise ValueError(f"embeddings must be [{len(patches)}, D], got {list(embeddings.shape)}")
    units = F.normalize(embeddings.double(), dim=1)
    rows_of_track: dict[int, list[tuple[float, float, float]]] = {}
    for query, relevant, irrelevant in _queries(patches, gap):
        _, hits = _rank(units, query, relevant, irrelevant)
        row = float(hits[0]), average_precision(hits.numpy()), len(relevant) / len(hits)
        rows_of_track.setdefault(int(patches.track[query]), []).append(row)
    if not rows_of_track:
        raise ValueError(f"no track has patches {gap} frames apart and others beside it")
    means = np.array([np.mean(rows, axis=0) for rows in rows_of_track.values()])
    return VideoScores(
        estimate(means[:, 0].tolist()),
        estimate(means[:, 1].tolist()),
        float(means[:, 2].mean()),
        len(rows_of_track),
        sum(len(rows) for rows in rows_of_track.values()),
    )


def count_queries(patches: TrackedPatches, gap: int = 10) -> int:
    """Return the number of queries that `score_patches` would have.

    Args:
        patches: The patches.
        gap: Least number of frames between a query and a relevant patch.
    """
    return len(_queries(patches, gap))


def _queries(
    patches: TrackedPatches, gap: int
) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Return each query with the indices of its relevant and of its irrelevant patches."""
    different, queries = patches.different(), []
    for query in range(len(patches)):
        far = np.abs(patches.frame - patches.frame[query]) >= gap
        relevant = np.flatnonzero((patches.track == patches.track[query]) & far)
        irrelevant = np.flatnonzero(different[patches.track[query], patches.track])
        if len(relevant) and len(irrelevant):
            queries.append((query, relevant, irrelevant))
    return queries


def _rank(
    units: Tensor, query: int, relevant: NDArray[np.int64], irrelevant: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Tensor]:
    """Return patches from near to far and which are relevant; ties put irrelevant ones first."""
    gallery = np.concatenate([irrelevant, relevant])
    cosine = units[torch.from_numpy(gallery)] @ units[query]
    order = cosine.argsort(descending=True, stable=True)
    return gallery[order.numpy()], (order >= len(irrelevant)).double()


@torch.no_grad()
def embed_patches(
    network: nn.Module,
    patches: TrackedPatches,
    size: int,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Embed the centre crop of each patch.

    Args:
        network: Network in eval mode.
        patches: ``P`` patches.
        size: Side of the square crops in pixels.
        progress: Function called after each batch with the number of embedded patches.

    Returns:
        ``[P, D]`` float32, on the CPU.
    """
    device = next(network.parameters()).device
    embeddings: list[Tensor] = []
    for batch in _centre_crops(patches, size):
        embeddings.append(network(batch.to(device)).float().cpu())
        if progress is not None:
            progress("embedding", min(_BATCH * len(embeddings), len(patches)), len(patches))
    return torch.cat(embeddings)


@torch.no_grad()
def calibrate_batch_norm(network: nn.Module, patches: TrackedPatches, size: int) -> nn.Module:
    """Return a copy of an untrained network with the batch-norm statistics of patches.

    An untrained network is a fair baseline only with statistics of its own data.

    Args:
        network: Network to copy.
        patches: Patches to measure the statistics on.
        size: Side of the square crops in pixels.

    Returns:
        The copy, in eval mode.
    """
    result = copy.deepcopy(network).train()
    for module in result.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a cumulative mean over all batches
    for batch in _centre_crops(patches, size):
        result(batch.to(next(result.parameters()).device))
    return result.eval()


def _centre_crops(patches: TrackedPatches, size: int) -> list[Tensor]:
    """Return the centre crops of patches in batches, in 0..1."""
    y, x = ((side - size) // 2 for side in patches.patches.shape[1:3])
    centre = patches.patches[:, y : y + size, x : x + size]
    tensor = torch.from_numpy(np.ascontiguousarray(centre)).movedim(-1, 1)
    return [batch.float() / 255 for batch in torch.split(tensor, _BATCH)]


def pixels(patches: TrackedPatches) -> Tensor:
    """Return zero-mean pixels as embeddings, whose cosine is the correlation of two patches.

    Args:
        patches: ``P`` patches, reduced to 32 x 32 because finer details retrieve less well.

    Returns:
        ``[P, 3072]``.
    """
    small = [resize(patch, (32, 32)) for patch in patches.patches]
    flat = torch.from_numpy(np.stack(small)).float().flatten(1)
    return flat - flat.mean(1, keepdim=True)


def colour_histogram(patches: TrackedPatches, stripes: int = 1) -> Tensor:
    """Return square roots of colour histograms, whose cosine is the Bhattacharyya coefficient.

    Args:
        patches: ``P`` patches.
        stripes: Number of horizontal stripes of a patch, with a histogram of 8 x 8 x 8 bins each.

    Returns:
        ``[P, 512 stripes]``.
    """
    bins = patches.patches // (256 // _BINS)
    code = (bins[..., 0].astype(np.int64) * _BINS + bins[..., 1]) * _BINS + bins[..., 2]
    counts = [
        np.bincount(part.ravel(), minlength=_BINS**3)
        for patch in code
        for part in np.array_split(patch, stripes)
    ]
    table = np.sqrt(np.stack(counts).reshape(len(code), -1))
    return torch.from_numpy(table)


BASELINES: dict[str, Callable[[TrackedPatches], Tensor]] = {
    "pixels": pixels,
    "colour histogram": colour_histogram,
    "histograms of 4 stripes": lambda patches: colour_histogram(patches, _STRIPES),
}


def retrieval_sheet(
    embeddings: dict[str, Tensor],
    patches: TrackedPatches,
    *,
    gap: int = 10,
    queries: int = 5,
    shown: int = 8,
) -> Image:
    """Draw the nearest patches of some queries, a row for each embedding, hits framed in green.

    Args:
        embeddings: Embeddings of the patches, ``[P, D]``, by name.
        patches: The patches.
        gap: Least number of frames between a query and a relevant patch.
        queries: Number of queries, one from each of the longest tracks.
        shown: Number of nearest patches in a row.

    Returns:
        A picture ``[H, W, 3]``.

    Raises:
        ValueError: No query has relevant and irrelevant patches.
    """
    query_of_track: dict[int, tuple[int, NDArray[np.int64], NDArray[np.int64]]] = {}
    for candidate in _queries(patches, gap):
        query_of_track.setdefault(int(patches.track[candidate[0]]), candidate)
    lengths = {track: int((patches.track == track).sum()) for track in query_of_track}
    longest = sorted(query_of_track, key=lambda track: -lengths[track])[:queries]
    pictures, captions, framed = [], [], []
    for query, relevant, irrelevant in (query_of_track[track] for track in longest):
        for name, embedded in embeddings.items():
            units = F.normalize(embedded.double(), dim=1)
            order, hits = _rank(units, query, relevant, irrelevant)
            pictures.append(_unstretched(patches, query))
            captions.append(f"{name}, frame {patches.frame[query]}:")
            framed.append(False)
            for place in range(shown):
                if place < len(order):
                    pictures.append(_unstretched(patches, int(order[place])))
                    captions.append(f"frame {patches.frame[order[place]]}")
                    framed.append(bool(hits[place]))
                else:  # the row is shorter
                    pictures.append(np.full((16, 16, 3), 255, np.uint8))
                    captions.append("")
                    framed.append(False)
    return contact_sheet(pictures, captions, columns=shown + 1, side=_SIDE, framed=framed)


def _unstretched(patches: TrackedPatches, index: int) -> Image:
    """Return a patch in the aspect ratio of its box."""
    width, height = patches.box[index, 2:]
    scale = (_SIDE - 8) / max(width, height)
    shape = (max(1, round(float(width * scale))), max(1, round(float(height * scale))))
    return resize(patches.patches[index], shape, cv2.INTER_CUBIC)
