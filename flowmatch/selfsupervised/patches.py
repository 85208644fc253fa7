"""Patches of tracks, which tracks show different objects, and files of patches."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowmatch.io import replace_when_done
from flowmatch.io._files import reason_of
from flowmatch.io.video import Frames
from flowmatch.progress import ProgressCallback
from flowmatch.selfsupervised.boxes import Box, box_iou
from flowmatch.selfsupervised.tracks import FlowFunction, Track, find_tracks
from flowmatch.tensor_files import encode_safetensors, read_safetensors

_TYPES = {
    "patches": (torch.uint8, 4),
    "track": (torch.int64, 1),
    "clip": (torch.int64, 1),
    "frame": (torch.int64, 1),
    "box": (torch.float32, 2),
}


@dataclass(frozen=True)
class TrackedPatches:
    """Patches of tracks and their origin.

    Attributes:
        patches: Patches, ``[P, S, S, 3]`` uint8, RGB, sorted by track.
        track: Number of each patch's track from 0, ``[P]``.
        clip: Number of each patch's video, ``[P]``.
        frame: Number of each patch's frame in its video, ``[P]``.
        box: Box ``(x, y, width, height)`` of each patch in its frame, pixels, ``[P, 4]``.
    """

    patches: NDArray[np.uint8]
    track: NDArray[np.int64]
    clip: NDArray[np.int64]
    frame: NDArray[np.int64]
    box: NDArray[np.float32]

    @classmethod
    def from_tracks(cls, clips: Sequence[Sequence[Track]]) -> "TrackedPatches":
        """Collect the patches of all tracks that have at least two.

        Args:
            clips: Tracks of each video.

        Raises:
            ValueError: No track has two patches.
        """
        rows = []
        number = 0
        for clip, tracks in enumerate(clips):
            for track in tracks:
                if len(track.patches) < 2:
                    continue
                boxes = dict(zip(track.frames, track.boxes, strict=True))
                rows += [(p, number, clip, f, boxes[f]) for f, p in track.patches.items()]
                number += 1
        if not rows:
            raise ValueError("no moving object could be tracked for long enough in the videos")
        patches, track_of, clip_of, frame, box = zip(*rows, strict=True)
        return cls(
            np.stack(patches),
            np.array(track_of, np.int64),
            np.array(clip_of, np.int64),
            np.array(frame, np.int64),
            np.array(box, np.float32),
        )

    def __len__(self) -> int:
        return len(self.track)

    @property
    def tracks(self) -> int:
        """Number of tracks."""
        return int(self.track.max()) + 1

    def different(self) -> NDArray[np.bool_]:
        """Return which tracks certainly show different objects.

        Tracks of different videos do, and tracks that appear in one frame without overlapping. Two
        tracks at different times may show the same object, which has come back.

        Returns:
            ``[tracks, tracks]`` bool.
        """
        different = np.zeros((self.tracks, self.tracks), bool)
        clip_of = np.zeros(self.tracks, np.int64)
        clip_of[self.track] = self.clip
        low, high = self.box[:, :2], self.box[:, :2] + self.box[:, 2:]
        for clip, frame in np.unique(np.stack([self.clip, self.frame], 1), axis=0):
            at = np.flatnonzero((self.clip == clip) & (self.frame == frame))
            shared = np.minimum(high[at, None], high[at]) - np.maximum(low[at, None], low[at])
            different[np.ix_(self.track[at], self.track[at])] |= ~(shared > 0).all(-1)
        return np.asarray(different | (clip_of[:, None] != clip_of), bool)

    def confirmed_by(
        self, others: Sequence[Sequence[Track]], min_iou: float = 0.5
    ) -> "TrackedPatches":
        """Return the patches that another tracker confirms.

        Of each track, the patches that lie on a single track of the other tracker remain, on the
        one that has most of them.

        Args:
            others: Tracks of each video by the other tracker.
            min_iou: Least intersection over union of two boxes that match.

        Raises:
            ValueError: No track keeps two patches.
        """
        kept: list[int] = []
        for number in range(self.tracks):
            best: list[int] = []
            members = np.flatnonzero(self.track == number)
            for other in others[int(self.clip[members[0]])]:
                boxes = dict(zip(other.frames, other.boxes, strict=True))
                confirmed = [
                    i
                    for i in members.tolist()
                    if int(self.frame[i]) in boxes
                    and box_iou(_as_box(self.box[i]), boxes[int(self.frame[i])]) >= min_iou
                ]
                best = max(best, confirmed, key=len)
            kept += best if len(best) >= 2 else []
        if not kept:
            raise ValueError("the two trackers agree on no moving object")
        subset = np.array(kept)
        numbers = np.unique(self.track[subset], return_inverse=True)[1]
        return TrackedPatches(
            self.patches[subset], numbers, self.clip[subset], self.frame[subset], self.box[subset]
        )


def _as_box(row: NDArray[np.float32]) -> Box:
    x, y, width, height = row.tolist()
    return x, y, width, height


def mine_patches(
    videos: Sequence[Frames],
    flow: FlowFunction,
    *,
    checked_by: FlowFunction | None = None,
    progress: ProgressCallback | None = None,
    size: int,
    stride: int = 5,
) -> TrackedPatches:
    """Track moving objects in videos and keep patches of them.

    All patches stay in memory, 9 kB each at 54 pixels.

    Args:
        videos: Videos, such as `flowmatch.io.read_frames` returns.
        flow: Function from two pictures to the flow between them.
        checked_by: Another flow function, by which the tracks must be confirmed, see
            `TrackedPatches.confirmed_by`.
        progress: Function called after each frame with the number of frames so far.
        size: Side of the square patches in pixels.
        stride: Interval of frames whose patches are kept.

    Raises:
        ValueError: A video cannot be read, or no moving object is found.
    """
    passes = [flow] if checked_by is None else [flow, checked_by]
    counts = [frames.count for frames in videos]
    total_frames = None if None in counts else len(passes) * sum(count or 0 for count in counts)
    frames_done = 0

    def count_frame(stage: str, done: int, total: int | None) -> None:
        nonlocal frames_done
        frames_done += 1
        if progress is not None:
            progress(stage, frames_done, total_frames)

    tracks: list[list[list[Track]]] = [[] for _ in passes]
    for frames in videos:
        for function, clips in zip(passes, tracks, strict=True):
            clips.append(
                find_tracks(
                    frames.numbered(), function, size=size, stride=stride, progress=count_frame
                )
            )
    patches = TrackedPatches.from_tracks(tracks[0])
    return patches if checked_by is None else patches.confirmed_by(tracks[1])


def save_patches(path: str | Path, patches: TrackedPatches, made_from: str) -> None:
    """Write patches to a file.

    Args:
        path: File to write, ``.safetensors``.
        patches: Patches to write.
        made_from: Description of the videos and the tracker, which `load_patches` compares.
    """
    tensors = {name: torch.from_numpy(getattr(patches, name).copy()) for name in _TYPES}
    with replace_when_done(path) as temporary:
        temporary.write_bytes(encode_safetensors(tensors, {"tracks": json.dumps(made_from)}))


def load_patches(path: str | Path, made_from: str) -> TrackedPatches:
    """Read the patches of a file that `save_patches` wrote.

    Args:
        path: The file, which may come from an untrusted source.
        made_from: Expected description of the videos and the tracker.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or its description differs.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of patches at {path}")
    tensors, metadata = read_safetensors(path)
    try:
        description: Any = json.loads(metadata.get("tracks", "null"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole file of patches: {reason_of(error)}") from error
    if tensors.keys() != _TYPES.keys():
        raise ValueError(f"{path} is not a file of patches: it holds {', '.join(tensors)[:200]}")
    if description != made_from:
        raise ValueError(f"{path} was mined from other videos, or with other options")
    if not _is_consistent(tensors):
        raise ValueError(f"{path} does not hold patches and as many boxes")
    return TrackedPatches(**{name: tensor.numpy() for name, tensor in tensors.items()})


def _is_consistent(tensors: dict[str, torch.Tensor]) -> bool:
    """Return whether tensors of a file have the types and shapes of `TrackedPatches`."""
    patches = tensors["patches"]
    count, side = (patches.shape[0], patches.shape[1]) if patches.dim() == 4 else (0, 0)
    valid = all((tensors[n].dtype, tensors[n].dim()) == kind for n, kind in _TYPES.items())
    valid = valid and patches.shape == (count, side, side, 3) and count > 0 and side > 0
    valid = valid and tensors["box"].shape == (count, 4)
    valid = valid and all(len(tensors[name]) == count for name in ("track", "clip", "frame"))
    if not valid:
        return False
    steps = tensors["track"].diff()  # tracks are numbered 0, 1, ... in this order
    return int(tensors["track"][0]) == 0 and bool(((steps == 0) | (steps == 1)).all())
