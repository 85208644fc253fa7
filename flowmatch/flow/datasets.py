"""Pairs of frames with a known flow, found on disk by how the public datasets lay them out."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from flowmatch.io import IMAGE_SUFFIXES, read_flow, read_image

T = TypeVar("T", bound=np.generic)

# A .png beside another flow file is more likely a picture of it, so it comes last.
_FLOW_SUFFIXES = (".flo", ".npz", ".flo5", ".pfm", ".png")


class FlowPair(NamedTuple):
    """Where the files of one pair are. That they exist is found out when the pair is loaded."""

    name: str  # unique in its dataset, such as "clean/alley_1/frame_0001"
    sequence: str  # what it is averaged with, such as "clean/alley_1"
    first: Path
    second: Path
    flow: Path
    occluded: Path | None = None  # picture, white where the second frame does not show the point
    invalid: Path | None = None  # picture, white where the flow shall not count
    flow_noc: Path | None = None  # KITTI: the flow again, without the occluded pixels


class LoadedPair(NamedTuple):
    """Two frames and what is known about them."""

    first: NDArray[np.uint8]  # [H, W, 3], RGB
    second: NDArray[np.uint8]  # [H, W, 3]
    truth: NDArray[np.float32]  # [H, W, 2], pixels; NaN where unknown or invalid
    occluded: NDArray[np.bool_] | None  # [H, W], True where hidden in the second frame


def find_pairs(folder: str | os.PathLike[str]) -> list[FlowPair]:
    """Find the pairs of a dataset; its folders tell which one it is.

    - Middlebury: ``other-data`` (or ``other-color-allframes``, ``other-color-twoframes``) and
      ``other-gt-flow``.
    - MPI-Sintel: ``training/flow`` and ``training/clean``, ``training/final``; each pass counts.
    - KITTI 2012 and 2015: ``training/flow_occ`` and ``training/colored_0``, ``image_0`` (2012) or
      ``image_2`` (2015).
    - FlyingChairs: ``data/00001_flow.flo`` and so on. With ``FlyingChairs_train_val.txt`` beside
      ``data`` only the validation pairs, those marked 2.
    - Anything else: sub-folders at any depth that hold ``frame1``, ``frame2`` and ``flow``, with
      any suffix that `flowmatch.io` reads, and optionally ``occ.png`` and ``invalid.png``.

    A pair of which only some files are there is listed too: loading it raises and names the
    missing file, so nothing is dropped in silence.

    Args:
        folder: Root of the dataset, or its ``training`` folder.

    Returns:
        At least one pair, in the order of their names.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: No pair is in it; the message lists what was looked for.

    Example:
        >>> import tempfile
        >>> scene = Path(tempfile.mkdtemp()) / "room" / "sofa"
        >>> scene.mkdir(parents=True)
        >>> for name in ("frame1.png", "frame2.png", "flow.flo"):
        ...     (scene / name).touch()
        >>> [pair.name for pair in find_pairs(scene.parent.parent)]
        ['room/sofa']

    Reference:
        Baker et al., IJCV 2011; Butler et al., ECCV 2012; Geiger et al., CVPR 2012; Menze & Geiger,
        CVPR 2015; Dosovitskiy et al., ICCV 2015.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder, expected one with a flow dataset")
    pairs = [
        *_middlebury(folder),
        *(pair for root in (folder, folder / "training") for pair in _sintel(root)),
        *(pair for root in (folder, folder / "training") for pair in _kitti(root)),
        *_flying_chairs(folder),
    ] or list(_loose_pairs(folder))
    if not pairs:
        raise ValueError(
            f"{folder} holds no pairs with a known flow. Looked for Middlebury (other-data, "
            "other-gt-flow), Sintel (training/clean or final, training/flow), KITTI (training/"
            "image_2, colored_0 or image_0, training/flow_occ), FlyingChairs (data/00001_flow.flo) "
            f"and folders with frame1.*, frame2.* and flow{'|'.join(_FLOW_SUFFIXES)}"
        )
    return pairs


def load_pair(pair: FlowPair) -> LoadedPair:
    """Read the files of a pair and check that they fit each other.

    Args:
        pair: One of `find_pairs`.

    Returns:
        Frames, true flow and occlusion, all of one size.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or has another size than the first frame, or no pixel has a
            known flow.
        ImportError: A ``.flo5`` file, and h5py is not installed.

    Example:
        >>> import tempfile
        >>> from flowmatch.io import write_flow, write_image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("frame1.png", "frame2.png"):
        ...     write_image(folder / name, np.zeros((4, 6, 3), np.uint8))
        >>> write_flow(folder / "flow.flo", np.zeros((4, 6, 2)))
        >>> load_pair(find_pairs(folder)[0]).truth.shape
        (4, 6, 2)
    """
    first = read_image(pair.first)
    size = first.shape[:2]
    second = _sized(pair.second, read_image(pair.second), size)
    truth = _sized(pair.flow, read_flow(pair.flow), size)
    if pair.invalid is not None:
        truth[_read_mask(pair.invalid, size)] = np.nan
    known = np.isfinite(truth[..., 0])
    if not known.any():
        raise ValueError(f"{pair.flow}: no pixel has a known flow, so nothing can be compared")
    occluded = None
    if pair.occluded is not None:
        occluded = _read_mask(pair.occluded, size)
    elif pair.flow_noc is not None:
        visible = _sized(pair.flow_noc, read_flow(pair.flow_noc), size)
        occluded = known & ~np.isfinite(visible[..., 0])
    return LoadedPair(first, second, truth, occluded)


def _sized(path: Path, pixels: NDArray[T], size: tuple[int, ...]) -> NDArray[T]:
    if pixels.shape[:2] != size:
        raise ValueError(
            f"{path}: expected {size[1]} x {size[0]} pixels as in the first frame, "
            f"got {pixels.shape[1]} x {pixels.shape[0]}"
        )
    return pixels


def _read_mask(path: Path, size: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray(_sized(path, read_image(path), size)[..., 0] > 127)


# ---- The layouts: each gives the pairs below `root`, and none where its folders are not --------


def _middlebury(root: Path) -> Iterator[FlowPair]:
    truths = root / "other-gt-flow"
    archives = ("other-data", "other-color-allframes", "other-color-twoframes")
    images = [root / name for name in archives if (root / name).is_dir()]
    if not truths.is_dir() or not images:
        return
    for scene in _names(path for parent in (truths, *images) for path in _folders(parent)):
        # Not every archive has every scene: take the first that has this one.
        frames = next((parent for parent in images if (parent / scene).is_dir()), images[0]) / scene
        flow = truths / scene / "flow10.flo"
        yield FlowPair(scene, scene, frames / "frame10.png", frames / "frame11.png", flow)


def _sintel(root: Path) -> Iterator[FlowPair]:
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
                        _if_there(root / "occlusions" / scene / f"{stem}.png"),
                        _if_there(root / "invalid" / scene / f"{stem}.png"),
                    )


def _kitti(root: Path) -> Iterator[FlowPair]:
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
            flow_noc=_if_there(root / "flow_noc" / name) if truths.name == "flow_occ" else None,
        )


def _flying_chairs(root: Path) -> Iterator[FlowPair]:
    parts = re.compile(r"(\d+)_(?:flow\.flo|img1\.ppm|img2\.ppm)")
    data = root / "data" if (root / "data").is_dir() else root
    numbers = sorted({match[1] for path in data.iterdir() if (match := parts.fullmatch(path.name))})
    if not numbers:
        return
    sequence = "FlyingChairs"
    split = _if_there(data / _CHAIRS_SPLIT) or _if_there(data.parent / _CHAIRS_SPLIT)
    if split is not None:
        sequence = "FlyingChairs validation"
        numbers = _chairs_validation(split, numbers)
    for number in numbers:
        first, second = data / f"{number}_img1.ppm", data / f"{number}_img2.ppm"
        yield FlowPair(number, sequence, first, second, data / f"{number}_flow.flo")


# The authors' file: line k says whether pair k trains (1) or validates (2).
_CHAIRS_SPLIT = "FlyingChairs_train_val.txt"


def _chairs_validation(split: Path, numbers: list[str]) -> list[str]:
    marks = split.read_text("ascii", errors="replace").split()
    if not set(marks) <= {"1", "2"} or not 1 <= int(numbers[0]) <= int(numbers[-1]) <= len(marks):
        raise ValueError(
            f"{split}: expected a line of 1 or 2 for each pair up to {numbers[-1]}, "
            f"got {len(marks)} lines of {sorted(set(marks))[:4]}"
        )
    chosen = [number for number in numbers if marks[int(number) - 1] == "2"]
    if not chosen:
        raise ValueError(f"{split}: none of the {len(numbers)} pairs is marked 2, for validation")
    return chosen


def _loose_pairs(root: Path) -> Iterator[FlowPair]:
    for folder in _folders_below(root, set()):
        files = {path.name.lower(): path for path in folder.iterdir()}
        first = _one_of(files, "frame1", IMAGE_SUFFIXES)
        second = _one_of(files, "frame2", IMAGE_SUFFIXES)
        flow = _one_of(files, "flow", _FLOW_SUFFIXES)
        if first or second or flow:
            relative = folder.relative_to(root).as_posix()
            name = folder.resolve().name if relative == "." else relative
            yield FlowPair(
                name,
                name,
                # No file has a star in its name: the error that follows says what was expected.
                first or folder / "frame1.*",
                second or folder / "frame2.*",
                flow or folder / "flow.*",
                files.get("occ.png"),
                files.get("invalid.png"),
            )


def _one_of(files: dict[str, Path], stem: str, suffixes: Iterable[str]) -> Path | None:
    return next((files[stem + suffix] for suffix in suffixes if stem + suffix in files), None)


def _folders_below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Walk through `folder` and all below it, through links too, but nowhere twice."""
    if folder.resolve() not in seen:
        seen.add(folder.resolve())
        yield folder
        for below in _folders(folder):
            yield from _folders_below(below, seen)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir())


def _names(paths: Iterable[Path]) -> list[str]:
    return sorted({path.name for path in paths})


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None
