"""Patches of tracks: what is certainly one thing, what are certainly two, and their file."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from flowmatch.io import replace_when_done
from flowmatch.io.video import Frames
from flowmatch.selfsupervised.tracks import Box, FlowFunction, Track, find_tracks, overlap

_TYPES = {
    "patches": (torch.uint8, 4),
    "track": (torch.int64, 1),
    "clip": (torch.int64, 1),
    "frame": (torch.int64, 1),
    "box": (torch.float32, 2),
}


@dataclass(frozen=True)
class TrackedPatches:
    """Patches and where they come from.

    Attributes:
        patches: ``[P, S, S, 3]`` uint8, RGB; those of a track follow each other.
        track: Number of the track of each, ``[P]``, from 0.
        clip: Number of its video.
        frame: Number of its frame there.
        box: ``(x, y, width, height)`` there, pixels, ``[P, 4]``.
    """

    patches: NDArray[np.uint8]
    track: NDArray[np.int64]
    clip: NDArray[np.int64]
    frame: NDArray[np.int64]
    box: NDArray[np.float32]

    @classmethod
    def of(cls, clips: Sequence[Sequence[Track]]) -> "TrackedPatches":
        """Take the patches of tracks that have two at least.

        Args:
            clips: Tracks of each video.

        Raises:
            ValueError: There are none.
        """
        rows = []
        number = 0
        for clip, tracks in enumerate(clips):
            for track in tracks:
                if len(track.patches) < 2:
                    continue
                place = dict(zip(track.frames, track.boxes, strict=True))
                rows += [(p, number, clip, f, place[f]) for f, p in track.patches.items()]
                number += 1
        if not rows:
            raise ValueError("nothing that moves was followed for long enough in what was given")
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
        """How many tracks there are."""
        return int(self.track.max()) + 1

    def different(self) -> NDArray[np.bool_]:
        """Tell which tracks certainly show two things.

        Those of different videos, and those that are in one frame at once without touching.
        Of two tracks at different times nobody knows: the same may have come back.

        Returns:
            ``[tracks, tracks]``.
        """
        apart = np.zeros((self.tracks, self.tracks), bool)
        clip_of = np.zeros(self.tracks, np.int64)
        clip_of[self.track] = self.clip
        low, high = self.box[:, :2], self.box[:, :2] + self.box[:, 2:]
        for clip, frame in np.unique(np.stack([self.clip, self.frame], 1), axis=0):
            at = np.flatnonzero((self.clip == clip) & (self.frame == frame))
            shared = np.minimum(high[at, None], high[at]) - np.maximum(low[at, None], low[at])
            apart[np.ix_(self.track[at], self.track[at])] |= ~(shared > 0).all(-1)
        return np.asarray(apart | (clip_of[:, None] != clip_of), bool)

    def agreed(self, others: Sequence[Sequence[Track]], shared: float = 0.5) -> "TrackedPatches":
        """Keep what another tracker has followed as well.

        Of a track those patches stay which lie on one and the same track of the other's, the one
        that has most of them.

        Args:
            others: The other's tracks of each video.
            shared: How much two boxes must share to be the same, intersection over union.

        Raises:
            ValueError: No two patches of a track are left.
        """
        kept: list[int] = []
        for number in range(self.tracks):
            best: list[int] = []
            mine = np.flatnonzero(self.track == number)
            for other in others[int(self.clip[mine[0]])]:
                place = dict(zip(other.frames, other.boxes, strict=True))
                same = [
                    i
                    for i in mine.tolist()
                    if int(self.frame[i]) in place
                    and overlap(_box(self.box[i]), place[int(self.frame[i])]) >= shared
                ]
                best = max(best, same, key=len)
            kept += best if len(best) >= 2 else []
        if not kept:
            raise ValueError("the two trackers agree about nothing that moves")
        part = np.array(kept)
        numbers = np.unique(self.track[part], return_inverse=True)[1]
        return TrackedPatches(
            self.patches[part], numbers, self.clip[part], self.frame[part], self.box[part]
        )


def _box(row: NDArray[np.float32]) -> Box:
    x, y, width, height = row.tolist()
    return x, y, width, height


def mine_patches(
    videos: Sequence[Frames],
    flow: FlowFunction,
    *,
    checked_by: FlowFunction | None = None,
    report: Callable[[int, int], None] = lambda clip, number: None,
    size: int,
    every: int = 5,
) -> TrackedPatches:
    """Follow what moves in videos, and keep patches of it, in memory: 9 kB each at 54 pixels.

    Args:
        videos: As `flowmatch.io.read_frames` gives them.
        flow: As `find_tracks` takes it.
        checked_by: Another flow: what is followed by it as well stays (`TrackedPatches.agreed`).
        report: Called after each frame with the numbers of its video and its own.
        size: As in `find_tracks`.
        every: As in `find_tracks`.

    Raises:
        ValueError: A video cannot be read, or nothing is found.
    """
    found: list[list[Track]] = []
    checks: list[list[Track]] = []
    for clip, frames in enumerate(videos):
        follow = partial(find_tracks, size=size, every=every)
        found.append(follow(frames.numbered(), flow, report=partial(report, clip)))
        if checked_by is not None:
            checks.append(follow(frames.numbered(), checked_by))
    patches = TrackedPatches.of(found)
    return patches if checked_by is None else patches.agreed(checks)


def save_patches(path: str | Path, patches: TrackedPatches, made_from: str) -> None:
    """Write patches, so that they need not be mined again.

    Args:
        path: ``.safetensors``.
        patches: What to write.
        made_from: Says what they were mined from; `load_patches` asks for the same.
    """
    tensors = {name: torch.from_numpy(getattr(patches, name).copy()) for name in _TYPES}
    with replace_when_done(path) as beside:
        beside.write_bytes(save(tensors, {"tracks": json.dumps(made_from)}))


def load_patches(path: str | Path, made_from: str) -> TrackedPatches:
    """Read what `save_patches` wrote.

    Args:
        path: The file; a stranger's is safe to read.
        made_from: What they must have been mined from.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or was mined from something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of patches at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about: Any = json.loads((file.metadata() or {}).get("tracks", "null"))
            found = {name: file.get_tensor(name) for name in _TYPES}
    except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole file of patches: {error}") from error
    if about != made_from:
        raise ValueError(f"{path} was mined from other videos, or otherwise")
    patches = found["patches"]
    count, side = (patches.shape[0], patches.shape[1]) if patches.dim() == 4 else (0, 0)
    right = all((found[n].dtype, found[n].dim()) == kind for n, kind in _TYPES.items())
    right = right and patches.shape == (count, side, side, 3) and count > 0 and side > 0
    right = right and found["box"].shape == (count, 4)
    right = right and all(len(found[name]) == count for name in ("track", "clip", "frame"))
    if right:
        numbers = found["track"]  # 0, 1, ... in this order, each once or more
        steps = numbers.diff()
        right = int(numbers[0]) == 0 and bool(((steps == 0) | (steps == 1)).all())
    if not right:
        raise ValueError(f"{path} does not hold patches and as many places")
    return TrackedPatches(**{name: tensor.numpy() for name, tensor in found.items()})
