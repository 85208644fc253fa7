"""File layouts of public flow datasets, and the pairs that a folder holds by each."""

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flowmatch.flow.data.rgbd import PosedTruth
from flowmatch.io import read_poses
from flowmatch.io.image import READ_SUFFIXES

# A .png beside another flow file is more likely an image of it, so it comes last.
FLOW_SUFFIXES = (".flo", ".npz", ".flo5", ".pfm", ".png")


class FlowPair(NamedTuple):
    """Files of one pair; loading it checks that they exist.

    Attributes:
        name: Unique name in its dataset, such as ``"clean/alley_1/frame_0001"``.
        sequence: Name of its sequence, such as ``"clean/alley_1"``.
        first: First frame.
        second: Second frame.
        flow: True flow from the first frame to the second.
        occluded: Mask, white at pixels that are hidden in the second frame.
        invalid: Mask, white at pixels whose flow is not evaluated.
        flow_noc: KITTI's flow without the occluded pixels.
        posed: Files from which the flow of RGB-D frames is computed; `flow` is then a depth.
    """

    name: str
    sequence: str
    first: Path
    second: Path
    flow: Path
    occluded: Path | None = None
    invalid: Path | None = None
    flow_noc: Path | None = None
    posed: PosedTruth | None = None


def middlebury(root: Path) -> Iterator[FlowPair]:
    """Yield the pairs of Middlebury: ``other-data`` or another archive, and ``other-gt-flow``."""
    truths = root / "other-gt-flow"
    archives = ("other-data", "other-color-allframes", "other-color-twoframes")
    images = [root / name for name in archives if (root / name).is_dir()]
    if not truths.is_dir() or not images:
        return
    for scene in _names(path for parent in (truths, *images) for path in _folders(parent)):
        # Not every archive has every scene: the first that has it is taken.
        frames = next((parent for parent in images if (parent / scene).is_dir()), images[0]) / scene
        flow = truths / scene / "flow10.flo"
        yield FlowPair(scene, scene, frames / "frame10.png", frames / "frame11.png", flow)


def sintel(root: Path) -> Iterator[FlowPair]:
    """Yield the pairs of MPI-Sintel: ``flow`` beside ``clean`` and ``final``, both passes."""
    if not (root / "flow").is_dir():
        return
    for render in (root / "clean", root / "final"):
        if not render.is_dir():
            continue
        for scene in _names([*_folders(render), *_folders(root / "flow")]):
            frames = sorted((render / scene).glob("frame_*.png"))[:-1]  # the last has no successor
            truths = (root / "flow" / scene).glob("frame_*.flo")
            for stem in sorted({path.stem for path in (*frames, *truths)}):
                if number := re.fullmatch(r"frame_(\d+)", stem):
                    follower = f"frame_{int(number[1]) + 1:0{len(number[1])}d}.png"
                    yield FlowPair(
                        f"{render.name}/{scene}/{stem}",
                        f"{render.name}/{scene}",
                        render / scene / f"{stem}.png",
                        render / scene / follower,
                        root / "flow" / scene / f"{stem}.flo",
                        _if_exists(root / "occlusions" / scene / f"{stem}.png"),
                        _if_exists(root / "invalid" / scene / f"{stem}.png"),
                    )


def kitti(root: Path) -> Iterator[FlowPair]:
    """Yield the pairs of KITTI: ``flow_occ`` or ``flow_noc`` beside frames of the left camera."""
    truths = next((root / n for n in ("flow_occ", "flow_noc") if (root / n).is_dir()), None)
    cameras = {"image_2": "KITTI 2015", "colored_0": "KITTI 2012", "image_0": "KITTI 2012"}
    camera = next((name for name in cameras if (root / name).is_dir()), None)
    if truths is None or camera is None:
        return
    files = (path for parent in (truths, root / camera) for path in parent.glob("*_10.png"))
    for name in _names(files):
        number = name.removesuffix("_10.png")
        yield FlowPair(
            number,
            cameras[camera],
            root / camera / name,
            root / camera / f"{number}_11.png",
            truths / name,
            flow_noc=_if_exists(root / "flow_noc" / name) if truths.name == "flow_occ" else None,
        )


def flying_chairs(root: Path, train: bool = False) -> Iterator[FlowPair]:
    """Yield the pairs of FlyingChairs, ``data/00001_flow.flo`` and so on.

    Args:
        root: Folder of the dataset.
        train: Yield the training pairs of the authors' split, not its validation pairs; without
            the file of the split, all pairs are yielded.
    """
    parts = re.compile(r"(\d+)_(?:flow\.flo|img1\.ppm|img2\.ppm)")
    data = root / "data" if (root / "data").is_dir() else root
    numbers = sorted({match[1] for path in data.iterdir() if (match := parts.fullmatch(path.name))})
    if not numbers:
        return
    sequence = "FlyingChairs"
    split = _if_exists(data / _CHAIRS_SPLIT) or _if_exists(data.parent / _CHAIRS_SPLIT)
    if split is not None:
        sequence = f"FlyingChairs {'training' if train else 'validation'}"
        numbers = _chairs_half(split, numbers, "1" if train else "2")
    for number in numbers:
        first, second = data / f"{number}_img1.ppm", data / f"{number}_img2.ppm"
        yield FlowPair(number, sequence, first, second, data / f"{number}_flow.flo")


# The authors' file: line k marks pair k as training (1) or validation (2).
_CHAIRS_SPLIT = "FlyingChairs_train_val.txt"


def _chairs_half(split: Path, numbers: list[str], mark: str) -> list[str]:
    marks = split.read_text("ascii", errors="replace").split()
    if not set(marks) <= {"1", "2"} or not 1 <= int(numbers[0]) <= int(numbers[-1]) <= len(marks):
        raise ValueError(
            f"{split}: expected a line of 1 or 2 for each pair up to {numbers[-1]}, "
            f"got {len(marks)} lines of {sorted(set(marks))[:4]}"
        )
    chosen = [number for number in numbers if marks[int(number) - 1] == mark]
    if not chosen:
        half = {"1": "training", "2": "validation"}[mark]
        raise ValueError(f"{split}: none of the {len(numbers)} pairs is marked {mark}, for {half}")
    return chosen


def flying_things(root: Path) -> Iterator[FlowPair]:
    """Yield the pairs of FlyingThings3D's training half: both directions, cameras and passes."""
    truths = root / "optical_flow" / "TRAIN"
    if not truths.is_dir():
        return
    for render in ("frames_cleanpass", "frames_finalpass"):
        for folder in sorted(truths.glob("*/*/into_*/*")) if (root / render).is_dir() else ():
            subset, scene, direction, camera = folder.relative_to(truths).parts
            images = root / render / "TRAIN" / subset / scene / camera
            name = f"OpticalFlowInto{'Future' if direction == 'into_future' else 'Past'}_"
            side = camera[:1].upper()
            flows = _numbered(folder, rf"{name}(\d+)_{side}\.pfm")
            frames = _numbered(images, rf"(\d+)({'|'.join(map(re.escape, READ_SUFFIXES))})")
            sequence = f"{render}/{subset}/{scene}/{direction}/{camera}"
            for number, follower in _steps(flows, frames, backward=direction != "into_future"):
                yield FlowPair(
                    f"{sequence}/{number}",
                    sequence,
                    frames.get(number, images / f"{number}.png"),
                    frames.get(follower, images / f"{follower}.png"),
                    flows.get(number, folder / f"{name}{number}_{side}.pfm"),
                )


def hd1k(root: Path) -> Iterator[FlowPair]:
    """Yield the pairs of HD1K: ``hd1k_flow_gt/flow_occ`` and ``hd1k_input/image_2``."""
    truths, images = root / "hd1k_flow_gt" / "flow_occ", root / "hd1k_input" / "image_2"
    if not truths.is_dir() or not images.is_dir():
        return
    names = (path.stem.rpartition("_") for path in truths.glob("*_*.png"))
    for sequence in sorted({sequence for sequence, _, number in names if number.isdecimal()}):
        pattern = rf"{re.escape(sequence)}_(\d+)\.png"
        flows, frames = _numbered(truths, pattern), _numbered(images, pattern)
        for number, follower in _steps(flows, frames):
            first, second = f"{sequence}_{number}.png", f"{sequence}_{follower}.png"
            yield FlowPair(
                first.removesuffix(".png"),
                f"HD1K/{sequence}",
                images / first,
                images / second,
                truths / first,
            )


def _numbered(folder: Path, pattern: str) -> dict[str, Path]:
    """Return the files of a folder by the number in their names, the pattern's first group."""
    files = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else ()
    return {match[1]: path for path in files if (match := re.fullmatch(pattern, path.name))}


def _steps(
    flows: Iterable[str], frames: Iterable[str], backward: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield each number with that of the next frame, also where a file is missing.

    The datasets have a flow for the last frame of a clip too, which has no successor: it is left
    out.
    """
    numbers = sorted({*flows, *frames}, key=int, reverse=backward)
    for number in numbers[:-1]:
        yield number, f"{int(number) + (-1 if backward else 1):0{len(number)}d}"


def posed_frames(root: Path) -> Iterator[FlowPair]:
    """Yield neighbouring RGB-D frames: ``color``, ``depth``, ``poses.txt``, ``intrinsics.txt``."""
    if not (root / "poses.txt").is_file() or not (root / "depth").is_dir():
        return
    images = {
        path.stem: path
        for path in (root / "color").glob("*")
        if path.suffix.lower() in READ_SUFFIXES
    }
    for (name, pose), (later, second_pose) in pairwise(read_poses(root)):
        first, second = (images.get(n, root / "color" / f"{n}.*") for n in (name, later))
        depths = [root / "depth" / f"{n}.png" for n in (name, later)]
        motion = np.linalg.inv(second_pose) @ pose
        truth = PosedTruth(depths[0], depths[1], root / "intrinsics.txt", motion)
        yield FlowPair(name, root.resolve().name, first, second, depths[0], posed=truth)


def loose_pairs(root: Path) -> Iterator[FlowPair]:
    """Yield the pairs of folders at any depth that hold ``frame1``, ``frame2`` and ``flow``."""
    for folder in _folders_below(root, set()):
        files = {path.name.lower(): path for path in folder.iterdir()}
        first = _one_of(files, "frame1", READ_SUFFIXES)
        second = _one_of(files, "frame2", READ_SUFFIXES)
        flow = _one_of(files, "flow", FLOW_SUFFIXES)
        if first or second or flow:
            relative = folder.relative_to(root).as_posix()
            name = folder.resolve().name if relative == "." else relative
            yield FlowPair(
                name,
                name,
                # No file has a star in its name, so loading fails and names the expected file.
                first or folder / "frame1.*",
                second or folder / "frame2.*",
                flow or folder / "flow.*",
                files.get("occ.png"),
                files.get("invalid.png"),
            )


def _one_of(files: dict[str, Path], stem: str, suffixes: Iterable[str]) -> Path | None:
    return next((files[stem + suffix] for suffix in suffixes if stem + suffix in files), None)


def _folders_below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield a folder and all below it, also through links, each once."""
    if folder.resolve() not in seen:
        seen.add(folder.resolve())
        yield folder
        for below in _folders(folder):
            yield from _folders_below(below, seen)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir())


def _names(paths: Iterable[Path]) -> list[str]:
    return sorted({path.name for path in paths})


def _if_exists(path: Path) -> Path | None:
    return path if path.is_file() else None
