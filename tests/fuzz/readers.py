"""The readers that are tried, the errors they document, and independent readers to compare with."""

import json
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from flowmatch import io
from flowmatch.io._orientation import read_orientation
from flowmatch.io._ply import read_ply
from flowmatch.io.image import count_pages, read_pages

from . import seeds, task_readers
from .seeds import Seed

# Modules that import PyTorch are imported when they are needed: they take seconds.


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes:
        name: Name on the command line.
        make_seeds: Function that makes small valid files.
        read: The reader, called with the path of a file.
        words: Words of the format, for the mutations.
        compare: Function that compares a result with an independent reader's, and describes a
            difference.
        expands: Factor by which the format's own compression may expand a file.
        constant: Bytes that it may take for a file of any size, besides.
        errors: Documented errors.
        room: Bytes of address space that it may add; decoders written in C reserve more than they
            touch.
    """

    name: str
    make_seeds: Callable[[], list[Seed]]
    read: Callable[[Path], Any]
    words: Sequence[bytes] = ()
    compare: Callable[[Path, Any], str | None] | None = None
    expands: int = 1
    constant: int = 2**20
    errors: tuple[type[Exception], ...] = (ValueError, OSError)
    room: int = 2**28

    @property
    def seeds(self) -> list[Seed]:
        """Small valid files."""
        return _seeds(self.make_seeds)


@cache
def _seeds(make: Callable[[], list[Seed]]) -> list[Seed]:
    return make()


# ---- flow ---------------------------------------------------------------------------------------


def _compare_flow(path: Path, flow: np.ndarray) -> str | None:
    content = path.read_bytes()
    if path.suffix == ".flo":
        width, height = struct.unpack_from("<ii", content, 4)
        other = np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2).copy()
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            with np.errstate(all="ignore"):
                other = arrays["flow"].astype(np.float32)
            if "valid" in arrays:
                other[~arrays["valid"]] = np.nan
    else:
        return None
    other[~(np.abs(other) <= 1e9).all(axis=2)] = np.nan
    return None if np.array_equal(flow, other, equal_nan=True) else "another flow"


# ---- pictures -----------------------------------------------------------------------------------


def _read_picture(path: Path) -> np.ndarray:
    image = io.read_image(path)
    rgba = io.read_rgba(path)
    if sorted(rgba.shape[:2]) != sorted(image.shape[:2]):
        raise AssertionError(f"{image.shape} and {rgba.shape}")
    read_orientation(path)
    if (pages := count_pages(path)) > 1:
        read_pages(path, 0, min(pages, 4))
    return image


def _compare_picture(path: Path, image: np.ndarray) -> str | None:
    from PIL import Image

    if path.suffix == ".tif":
        other = _by_tifffile(path)
        same = other is None or np.array_equal(other, image)
        return None if same else "pixels unlike tifffile's"
    if path.suffix in (".ppm", ".pgm") and re.search(rb"\d#", path.read_bytes()[:200]):
        return None  # Pillow joins the digits before and after a comment, Netpbm does not
    try:
        with Image.open(path) as picture:
            size = picture.size
            tolerance = path.suffix == ".bmp"  # of 5 bits, Pillow makes 8 without rounding
            if path.suffix in (".png", ".bmp") and picture.mode in ("RGB", "L"):
                other = np.asarray(picture.convert("RGB"))
            else:
                other = None
    except Exception:
        return None
    if sorted(size) != sorted(image.shape[:2]):
        return f"{path.suffix}: size unlike Pillow's"
    if other is not None and (
        other.shape != image.shape or np.abs(np.int16(other) - image).max() > tolerance
    ):
        return f"{path.suffix}: pixels unlike Pillow's"
    return None


def _by_tifffile(path: Path) -> np.ndarray | None:
    """Return the pixels of a TIFF of gray or RGB of 8 or 16 bits, upright."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        tags = {tag.code: tag.value for tag in page.tags}
        pixels = page.asarray()
        bits, samples = page.bitspersample, page.samplesperpixel
        photometric, planar = int(page.photometric), int(page.planarconfig)
    kinds = {(0, 1), (1, 1), (2, 3)}  # white is zero, black is zero, RGB
    if (photometric, samples) not in kinds or pixels.dtype != f"u{bits // 8}":
        return None
    if tags.get(274, 1) != 1 or tags.get(339, 1) not in (1, (1,) * samples):
        return None
    if planar == 2:
        pixels = np.moveaxis(pixels, 0, -1)
    if bits == 16:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    if photometric == 0:
        pixels = 255 - pixels
    return pixels if samples == 3 else pixels[..., None].repeat(3, axis=2)


# ---- clouds -------------------------------------------------------------------------------------


def _read_ply(path: Path) -> np.ndarray:
    points = io.read_cloud(path)
    table = read_ply(path, keep_rest=True)
    target = path.with_name("moved.ply")
    io.move_cloud_file(path, target, np.eye(4))
    moved = read_ply(target).points
    with np.errstate(over="ignore"):
        before, after = np.float32(table.points), np.float32(moved)
    if not np.array_equal(before, after, equal_nan=True):
        raise AssertionError("moving by nothing changes points")
    return points


def _compare_ply(path: Path, points: np.ndarray) -> str | None:
    try:
        from plyfile import PlyData

        vertex = PlyData.read(path)["vertex"]
        other = np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], axis=1)
    except Exception:
        return None
    other = other[np.isfinite(other).all(axis=1)]
    # plyfile reads numbers of text as their types; the reader keeps them as they are written.
    if points.shape != other.shape:
        return f"{len(points)} points, plyfile reads {len(other)}"
    close = np.isclose(points, other, rtol=1e-6, equal_nan=True).all()
    return None if close else "points unlike plyfile's"


def _read_pcd(path: Path) -> np.ndarray:
    points = io.read_cloud(path)
    io.move_cloud_file(path, path.with_name("moved.pcd"), np.eye(4))
    return points


def _compare_cloud(path: Path, points: np.ndarray) -> str | None:
    if path.suffix != ".npy":
        return None
    other = np.load(path, allow_pickle=False).astype(np.float64)
    other = other[np.isfinite(other).all(axis=1)]
    return None if np.array_equal(points, other) else "points unlike NumPy's"


# ---- poses, weights, indexes --------------------------------------------------------------------


def _read_pose(path: Path) -> Any:
    from flowmatch.matching.data.sequences import read_homography
    from flowmatch.registration.data.datasets import read_log
    from flowmatch.stitch.cameras import read_cameras

    readers: dict[str, Callable[[Path], Any]] = {
        "poses.txt": lambda path: io.read_poses(path.parent), "intrinsics.txt": io.read_intrinsics,
        "gt.log": read_log, "H_1_2": read_homography, "H.xml": read_homography,
        "rig.json": read_cameras, "gt.npy": _read_motion,
    }  # fmt: skip
    return readers[path.name](path)


def _read_motion(path: Path) -> Any:
    from flowmatch.registration.data.datasets import find_fragments

    folder = path.parent / "pair"
    folder.mkdir(exist_ok=True)
    for name in ("src.xyz", "ref.xyz"):
        (folder / name).write_text("1 2 3")
    (folder / path.name).write_bytes(path.read_bytes())
    return find_fragments(folder)


@cache
def _store() -> Any:
    from torch import nn

    from flowmatch.zoo import WeightStore

    return WeightStore("tiny", {"tiny": lambda *, inputs, outputs: nn.Linear(inputs, outputs)})


def _read_weights(path: Path) -> Any:
    return _store().load(path)


def _read_index(path: Path) -> Any:
    from flowmatch.retrieval.index import read_index

    return read_index(path)


def _compare_weights(path: Path, network: Any) -> str | None:
    content = path.read_bytes()
    length = struct.unpack_from("<Q", content)[0]
    start, end = json.loads(content[8 : 8 + length])["weight"]["data_offsets"]
    kind = json.loads(content[8 : 8 + length])["weight"]["dtype"]
    types = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    if kind not in types:
        return None
    values = np.frombuffer(content[8 + length :][start:end], types[kind]).astype(np.float32)
    read = network.weight.detach().numpy().ravel()
    return None if np.array_equal(values, read) else "other weights"


def _later(module: str, name: str) -> Callable[[], list[Seed]]:
    """Return a function that imports a module of seeds and calls one of its functions."""

    def make() -> list[Seed]:
        return getattr(import_module(f"{__package__}.{module}"), name)()

    return make


READERS = {
    reader.name: reader
    for reader in (
        Reader("flow", seeds.flow_seeds, io.read_flow, compare=_compare_flow, expands=1),
        Reader("flo5", seeds.flo5_seeds, io.read_flow),
        Reader(
            "image", _later("image_seeds", "image_seeds"), _read_picture,
            compare=_compare_picture, room=2**31,
        ),
        Reader("ply", seeds.ply_seeds, _read_ply, seeds.PLY_WORDS, _compare_ply),
        Reader("pcd", seeds.pcd_seeds, _read_pcd, seeds.PCD_WORDS),
        Reader("cloud", seeds.cloud_seeds, io.read_cloud, compare=_compare_cloud),
        Reader("poses", seeds.pose_seeds, _read_pose),
        Reader(
            "weights", _later("weight_seeds", "weight_seeds"), _read_weights, seeds.WEIGHT_WORDS,
            _compare_weights,
        ),
        Reader("index", _later("weight_seeds", "index_seeds"), _read_index, seeds.WEIGHT_WORDS),
        Reader(
            "matches", _later("task_seeds", "match_seeds"), task_readers.read_matches,
            compare=task_readers.compare_matches, expands=50,
        ),
        Reader("lists", _later("task_seeds", "list_seeds"), task_readers.read_list, expands=20),
        Reader("lua", _later("task_seeds", "lua_seeds"), task_readers.read_lua),
        Reader("saved", _later("weight_seeds", "torch_seeds"), task_readers.read_saved),
        Reader(
            "video", _later("task_seeds", "video_seeds"), task_readers.read_video,
            compare=task_readers.compare_video, expands=20, room=2**31,
        ),
        Reader(
            "metadata", _later("image_seeds", "metadata_seeds"), task_readers.read_photo_metadata,
            compare=task_readers.compare_photo_metadata, errors=(OSError,),
        ),
        Reader(
            "mesh", _later("task_seeds", "mesh_seeds"), task_readers.read_mesh,
            constant=2**24, errors=(ValueError, OSError, ImportError),  # 100 000 points
        ),
        Reader("tracks", _later("task_seeds", "track_seeds"), task_readers.read_track),
    )
}  # fmt: skip
