"""Does an embedding find the same thing in other frames, and better than what needs no learning?"""

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
from flowmatch.metric_learning.protocol import Estimate, estimate
from flowmatch.selfsupervised.patches import TrackedPatches

_BATCH = 128
_BINS = 8  # of each colour
_STRIPES = 4  # from head to foot
_SIDE = 140  # of a patch in the picture, pixels


@dataclass(frozen=True)
class VideoScores:
    """How well the same thing is found in other frames; shares in 0..1, means over tracks.

    Attributes:
        recall_at_1: Queries whose nearest patch shows the same.
        map: Mean average precision.
        chance: R@1 of an order at random.
        tracks: How many tracks had something to find.
        queries: How many patches of them.
    """

    recall_at_1: Estimate
    map: Estimate
    chance: float
    tracks: int
    queries: int


def score_patches(embeddings: Tensor, patches: TrackedPatches, apart: int = 10) -> VideoScores:
    """Search for each patch among the others, by the cosine.

    What is to be found: patches of the same track, at least `apart` frames away, so that equal
    pixels do not do. What must not: patches of tracks that certainly show something else. All
    others do not count, for nobody knows. Tracks weigh the same, however long.

    Args:
        embeddings: ``[P, D]``, one for each patch.
        patches: The patches.
        apart: Frames.

    Returns:
        Means over tracks, with half a 95 % interval.

    Raises:
        ValueError: There is not one for each patch, or nothing to find.
    """
    if embeddings.dim() != 2 or len(embeddings) != len(patches):
        raise ValueError(f"embeddings must be [{len(patches)}, D], got {list(embeddings.shape)}")
    units = F.normalize(embeddings.double(), dim=1)
    of_track: dict[int, list[tuple[float, float, float]]] = {}
    for query, right, wrong in _questions(patches, apart):
        _, hits = _ranked(units, query, right, wrong)
        precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
        average = float((precision * hits).sum() / hits.sum())
        row = float(hits[0]), average, len(right) / len(hits)
        of_track.setdefault(int(patches.track[query]), []).append(row)
    if not of_track:
        raise ValueError(f"no track has patches {apart} frames apart and others beside it")
    means = np.array([np.mean(rows, axis=0) for rows in of_track.values()])
    return VideoScores(
        estimate(means[:, 0].tolist()),
        estimate(means[:, 1].tolist()),
        float(means[:, 2].mean()),
        len(of_track),
        sum(len(rows) for rows in of_track.values()),
    )


def _questions(
    patches: TrackedPatches, apart: int
) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Queries, what they should find, and what they should not."""
    different, found = patches.different(), []
    for query in range(len(patches)):
        far = np.abs(patches.frame - patches.frame[query]) >= apart
        right = np.flatnonzero((patches.track == patches.track[query]) & far)
        wrong = np.flatnonzero(different[patches.track[query], patches.track])
        if len(right) and len(wrong):
            found.append((query, right, wrong))
    return found


def _ranked(
    units: Tensor, query: int, right: NDArray[np.int64], wrong: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Tensor]:
    """Indices from near to far, and which of them are right; of equals the wrong come first."""
    gallery = np.concatenate([wrong, right])
    cosine = units[torch.from_numpy(gallery)] @ units[query]
    order = cosine.argsort(descending=True, stable=True)
    return gallery[order.numpy()], (order >= len(wrong)).double()


@torch.no_grad()
def embed_patches(network: nn.Module, patches: TrackedPatches, size: int) -> Tensor:
    """Embed the middle of each patch.

    Args:
        network: In eval mode.
        patches: ``P`` patches.
        size: Of the squares that the network sees.

    Returns:
        ``[P, D]`` float32, on the CPU.
    """
    device = next(network.parameters()).device
    return torch.cat([network(part.to(device)).float().cpu() for part in _middles(patches, size)])


@torch.no_grad()
def calibrated(network: nn.Module, patches: TrackedPatches, size: int) -> nn.Module:
    """Give an untrained network the batch-norm statistics of patches, for a fair comparison.

    Args:
        network: Left as it is.
        patches: What is measured.
        size: Of the squares that the network sees.

    Returns:
        A copy, in eval mode.
    """
    copied = copy.deepcopy(network).train()
    for module in copied.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # which is the mean of all batches
    for part in _middles(patches, size):
        copied(part.to(next(copied.parameters()).device))
    return copied.eval()


def _middles(patches: TrackedPatches, size: int) -> list[Tensor]:
    y, x = ((side - size) // 2 for side in patches.patches.shape[1:3])
    middle = patches.patches[:, y : y + size, x : x + size]
    tensor = torch.from_numpy(np.ascontiguousarray(middle)).movedim(-1, 1)
    return [part.float() / 255 for part in torch.split(tensor, _BATCH)]


def pixels(patches: TrackedPatches) -> Tensor:
    """Take the pixels themselves, less their mean: the cosine is the correlation of two patches.

    Args:
        patches: ``P`` patches, shrunk to 32 x 32 first: finer ones are harder to find again.

    Returns:
        ``[P, 3072]``.
    """
    small = [cv2.resize(p, (32, 32), interpolation=cv2.INTER_AREA) for p in patches.patches]
    flat = torch.from_numpy(np.stack(small)).float().flatten(1)
    return flat - flat.mean(1, keepdim=True)


def colour_histogram(patches: TrackedPatches, stripes: int = 1) -> Tensor:
    """Count colours, 8 x 8 x 8, in each stripe; roots, so that the cosine is Bhattacharyya's.

    Args:
        patches: ``P`` patches.
        stripes: Into which a patch is cut from top to bottom.

    Returns:
        ``[P, 512 stripes]``.
    """
    bins = patches.patches // (256 // _BINS)
    code = (bins[..., 0].astype(np.int64) * _BINS + bins[..., 1]) * _BINS + bins[..., 2]
    counts = [
        np.bincount(part.ravel(), minlength=_BINS**3)
        for one in code
        for part in np.array_split(one, stripes)
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
    apart: int = 10,
    queries: int = 5,
    shown: int = 8,
) -> NDArray[np.uint8]:
    """Draw what some patches find, a row for each embedding; what is right has a green frame.

    Args:
        embeddings: ``[P, D]`` by name.
        patches: The patches.
        apart: As in `score_patches`.
        queries: How many, each of another track, of the longest.
        shown: How many of the nearest.

    Returns:
        A picture ``[H, W, 3]``.

    Raises:
        ValueError: There is nothing to find.
    """
    asked: dict[int, tuple[int, NDArray[np.int64], NDArray[np.int64]]] = {}
    for question in _questions(patches, apart):
        asked.setdefault(int(patches.track[question[0]]), question)
    longest = sorted(asked, key=lambda track: -int((patches.track == track).sum()))[:queries]
    pictures, captions, framed = [], [], []
    for query, right, wrong in (asked[track] for track in longest):
        for name, embedded in embeddings.items():
            order, hits = _ranked(F.normalize(embedded.double(), dim=1), query, right, wrong)
            pictures.append(_unstretched(patches, query))
            captions.append(f"{name}, frame {patches.frame[query]}:")
            framed.append(False)
            for place in range(shown):
                if place < len(order):
                    pictures.append(_unstretched(patches, int(order[place])))
                    captions.append(f"frame {patches.frame[order[place]]}")
                    framed.append(bool(hits[place]))
                else:  # fewer than a row
                    pictures.append(np.full((16, 16, 3), 255, np.uint8))
                    captions.append("")
                    framed.append(False)
    return contact_sheet(pictures, captions, columns=shown + 1, side=_SIDE, framed=framed)


def _unstretched(patches: TrackedPatches, index: int) -> NDArray[np.uint8]:
    """A patch in the proportions of its box."""
    width, height = patches.box[index, 2:]
    scale = (_SIDE - 8) / max(width, height)
    shape = (max(1, round(float(width * scale))), max(1, round(float(height * scale))))
    enlarged = cv2.resize(patches.patches[index], shape, interpolation=cv2.INTER_CUBIC)
    return np.asarray(enlarged, np.uint8)
