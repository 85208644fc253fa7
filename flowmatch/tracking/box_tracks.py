"""Boxes of objects, tracked through a clip by a network."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from flowmatch.imaging import Image
from flowmatch.progress import ProgressCallback
from flowmatch.tracking.boxes import (
    SMALLEST,
    Boxes,
    Region,
    check_boxes,
    crop_region,
    decode_box,
    inside_share,
    region_around,
)
from flowmatch.tracking.clip import clip_length, numbered_frames
from flowmatch.tracking.networks import BoxRegression
from flowmatch.tracking.store import load

_FOUND, _FOUND_AGAIN = 0.5, 0.8  # least probability that an object is visible: tracked, and lost
# Share of a change of size that is followed: errors of the size add up from frame to frame. Chosen
# on rendered clips of training photographs.
_SCALING = 0.5
_LEAST_INSIDE = 0.2  # share of a box that must lie in the frame
# Where a lost object is searched, in sides of its last box.
_SHIFTS = np.array([(x, y) for y in (-0.8, 0, 0.8) for x in (-0.8, 0, 0.8)])


@dataclass(frozen=True)
class BoxTracks:
    """Boxes of N objects in T frames.

    Attributes:
        frames: Numbers of the frames, from 0, ``[T]`` int64; a frame that could not be read leaves
            a gap.
        boxes: Boxes (x, y, width, height), ``[T, N, 4]`` float64, pixels; the last known box while
            an object is lost.
        scores: Estimated probability that each object is visible, ``[T, N]`` float32; 1 in the
            first frame.
        lost: Whether each object is lost, ``[T, N]`` bool.
    """

    frames: NDArray[np.int64]
    boxes: Boxes
    scores: NDArray[np.float32]
    lost: NDArray[np.bool_]


def track_boxes(
    frames: Iterable[Image],
    boxes: ArrayLike,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> BoxTracks:
    """Track objects through a clip, each by a box in the first frame.

    For each object and frame, the network compares the crop around the last box with two others:
    of the first frame, which does not drift, and of the frame before, which resembles it most. The
    two boxes that it regresses are averaged, weighted by the probabilities that the object is
    visible, and half of the change of size is followed. An object is lost if neither probability is
    above a half, or if its box has left the picture; it is then searched around its last box.

    Args:
        frames: The clip: what `flowmatch.io.read_frames` gives, or pictures ``[H, W, 3]``, uint8.
        boxes: Boxes (x, y, width, height) in the first frame, ``[N, 4]`` or ``[4]``, pixels.
        model: Name of shipped weights, a ``.safetensors`` file or a network.
        device: Device of the network; None takes a GPU where torch can use one, and leaves a given
            network where it is.
        progress: Called after each frame, with the stage ``"tracking"``.

    Returns:
        The boxes in all frames, the first one included.

    Raises:
        ValueError: A box is not finite, too small or not in the frame; no frame can be read; frames
            differ in size; or the model is unknown.
        FileNotFoundError: The file of weights does not exist.

    Example:
        >>> clip = [np.zeros((60, 80, 3), np.uint8)] * 3
        >>> track_boxes(clip, [(20, 20, 16, 24)]).boxes.shape
        (3, 1, 4)

    Reference:
        Held, Thrun, Savarese, Learning to Track at 100 FPS with Deep Regression Networks, ECCV
        2016.
    """
    network = load(model, device=device)
    if not isinstance(network, BoxRegression):
        raise ValueError(f"model must be a network that tracks boxes, got {type(network).__name__}")
    tracker: _Tracker | None = None
    numbers, rows = [], []
    for number, image in numbered_frames(frames):
        if tracker is None:
            tracker = _Tracker(network, image, check_boxes(boxes, image.shape[:2]))
        else:
            tracker.step(image)
        numbers.append(number)
        rows.append((tracker.boxes.copy(), tracker.scores.copy(), tracker.lost.copy()))
        if progress is not None:
            progress("tracking", len(numbers), clip_length(frames))
    parts = [np.stack(column) for column in zip(*rows, strict=True)]
    return BoxTracks(np.array(numbers, np.int64), *parts)


class _Tracker:
    """The state of all objects after a frame.

    Args:
        network: The network.
        image: First frame.
        boxes: Boxes in it, ``[N, 4]``.
    """

    def __init__(self, network: BoxRegression, image: Image, boxes: Boxes) -> None:
        self.network = network
        self.boxes = boxes.copy()
        self.scores = np.ones(len(boxes), np.float32)
        self.lost = np.zeros(len(boxes), np.bool_)
        self.first = [self._crop(image, region_around(box)) for box in boxes]
        self.previous = list(self.first)

    def step(self, image: Image) -> None:
        """Track all objects to the next frame."""
        searches: list[tuple[int, Region]] = []
        for k, box in enumerate(self.boxes):
            shifts = _SHIFTS * box[2:] if self.lost[k] else np.zeros((1, 2))
            regions = (region_around(np.concatenate([box[:2] + s, box[2:]])) for s in shifts)
            searches += [(k, region) for region in regions]
        crops = [self._crop(image, region) for _, region in searches]
        answers = [
            self._regress([templates[k] for k, _ in searches], crops)
            for templates in (self.first, self.previous)
        ]
        codes, scores = (np.stack(parts) for parts in zip(*answers, strict=True))
        weights = scores / np.maximum(scores.sum(0), 1e-6)
        mean = (weights[..., None] * codes).sum(0)
        mean[:, 2:] *= _SCALING
        for k in range(len(self.boxes)):
            candidates = [i for i, (owner, _) in enumerate(searches) if owner == k]
            best = max(candidates, key=lambda i: float(scores[:, i].sum()))
            box = decode_box(mean[best], searches[best][1])
            self._update(k, image, box, float(scores[:, best].max()))

    def _update(self, k: int, image: Image, box: Boxes, score: float) -> None:
        found = score >= (_FOUND_AGAIN if self.lost[k] else _FOUND)
        inside = float(inside_share(box, image.shape[:2])) >= _LEAST_INSIDE
        self.scores[k] = score if inside else 0.0
        self.lost[k] = not (found and inside)
        if not self.lost[k]:
            sides = box[2:].clip(SMALLEST, image.shape[1::-1])
            self.boxes[k] = np.concatenate([box[:2] + (box[2:] - sides) / 2, sides])
            self.previous[k] = self._crop(image, region_around(self.boxes[k]))

    def _crop(self, image: Image, region: Region) -> Image:
        return crop_region(image, region, self.network.size)

    def _regress(
        self, templates: list[Image], crops: list[Image]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return boxes ``[S, 4]`` as `encode_box` gives them, and probabilities ``[S]``."""
        like = next(self.network.parameters())
        first, second = (
            torch.from_numpy(np.stack(part)).movedim(-1, 1).to(like) for part in (templates, crops)
        )
        with torch.inference_mode():
            codes, logits = self.network(first / 255, second / 255)
            return codes.float().cpu().numpy(), logits.float().sigmoid().cpu().numpy()
