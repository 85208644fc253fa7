"""Pairs of frames with known flow, found on disk by the layouts of public datasets."""

import os
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from flowmatch.flow.data.layouts import (
    FLOW_SUFFIXES,
    FlowPair,
    flying_chairs,
    flying_things,
    hd1k,
    kitti,
    loose_pairs,
    middlebury,
    posed_frames,
    sintel,
)
from flowmatch.imaging import Image
from flowmatch.io import read_flow, read_image

T = TypeVar("T", bound=np.generic)


class LoadedPair(NamedTuple):
    """Two frames and their true flow.

    Attributes:
        first: First frame, ``[H, W, 3]``, RGB.
        second: Second frame, ``[H, W, 3]``.
        truth: True flow, ``[H, W, 2]``, pixels; NaN where it is unknown or invalid.
        occluded: Pixels of the first frame that are hidden in the second, ``[H, W]``.
    """

    first: Image
    second: Image
    truth: NDArray[np.float32]
    occluded: NDArray[np.bool_] | None


def find_pairs(folder: str | os.PathLike[str], *, train: bool = False) -> list[FlowPair]:
    """Find the pairs of a dataset, which is recognised by its folders.

    - Middlebury: ``other-data`` (or ``other-color-allframes``, ``other-color-twoframes``) and
      ``other-gt-flow``.
    - MPI-Sintel: ``training/flow`` and ``training/clean``, ``training/final``, both passes.
    - KITTI 2012 and 2015: ``training/flow_occ`` and ``training/colored_0``, ``image_0`` (2012) or
      ``image_2`` (2015).
    - FlyingChairs: ``data/00001_flow.flo`` and so on. With ``FlyingChairs_train_val.txt`` beside
      ``data``, only the validation pairs, marked 2, or with `train` the training pairs, marked 1.
    - FlyingThings3D: ``optical_flow/TRAIN`` beside ``frames_cleanpass`` and ``frames_finalpass``.
    - HD1K: ``hd1k_flow_gt/flow_occ`` and ``hd1k_input/image_2``.
    - RGB-D frames of a still scene: ``color``, ``depth``, ``poses.txt`` and ``intrinsics.txt``, as
      `flowmatch fuse` reads them; the flow from each frame to the next follows from them.
    - Otherwise: sub-folders at any depth that hold ``frame1``, ``frame2`` and ``flow``, with
      any suffix that `flowmatch.io` reads, and optionally ``occ.png`` and ``invalid.png``.

    An incomplete pair is listed too: loading it raises and names the missing file, so no pair is
    dropped silently.

    Args:
        folder: Root of the dataset, or its ``training`` folder.
        train: Take the training half, if the authors define one.

    Returns:
        At least one pair, in the order of their names.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It holds no pairs; the message lists the known layouts.

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
        *middlebury(folder),
        *(pair for root in (folder, folder / "training") for pair in sintel(root)),
        *(pair for root in (folder, folder / "training") for pair in kitti(root)),
        *flying_chairs(folder, train),
        *flying_things(folder),
        *hd1k(folder),
        *posed_frames(folder),
    ] or list(loose_pairs(folder))
    if not pairs:
        raise ValueError(
            f"{folder} holds no pairs with a known flow. Looked for Middlebury (other-data, "
            "other-gt-flow), Sintel (training/clean or final, training/flow), KITTI (training/"
            "image_2, colored_0 or image_0, training/flow_occ), "
            "FlyingChairs (data/00001_flow.flo), FlyingThings3D (optical_flow/TRAIN), HD1K "
            "(hd1k_flow_gt/flow_occ), RGB-D (depth, poses.txt) "
            f"and folders with frame1.*, frame2.* and flow{'|'.join(FLOW_SUFFIXES)}"
        )
    return pairs


def load_pair(pair: FlowPair) -> LoadedPair:
    """Read the files of a pair and check that their sizes agree.

    Args:
        pair: A pair from `find_pairs`.

    Returns:
        Frames, true flow and occlusion, all of one size.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or has another size than the first frame, or no pixel has a
            known flow.
        ImportError: The flow is a ``.flo5`` file, and h5py is not installed.

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
    second = _check_size(pair.second, read_image(pair.second), size)
    flow = read_flow(pair.flow) if pair.posed is None else pair.posed.flow()
    truth = _check_size(pair.flow, flow, size)
    if pair.invalid is not None:
        truth[_read_mask(pair.invalid, size)] = np.nan
    known = np.isfinite(truth[..., 0])
    if not known.any():
        raise ValueError(f"{pair.flow}: no pixel has a known flow, so nothing can be compared")
    occluded = None
    if pair.occluded is not None:
        occluded = _read_mask(pair.occluded, size)
    elif pair.flow_noc is not None:
        visible = _check_size(pair.flow_noc, read_flow(pair.flow_noc), size)
        occluded = known & ~np.isfinite(visible[..., 0])
    return LoadedPair(first, second, truth, occluded)


def _check_size(path: Path, pixels: NDArray[T], size: tuple[int, ...]) -> NDArray[T]:
    if pixels.shape[:2] != size:
        raise ValueError(
            f"{path}: expected {size[1]} x {size[0]} pixels as in the first frame, "
            f"got {pixels.shape[1]} x {pixels.shape[0]}"
        )
    return pixels


def _read_mask(path: Path, size: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray(_check_size(path, read_image(path), size)[..., 0] > 127)
