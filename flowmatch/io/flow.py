"""Optical flow files: Middlebury .flo, KITTI .png, FlyingThings .pfm, Spring .flo5, NumPy .npz.

Files may be hostile: every reader compares the size that a header claims with the size of the
file before it allocates memory.
"""

import io
import math
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.io._files import (
    DAMAGED_ZIP,
    FilePath,
    entry_for_suffix,
    existing_file,
    optional_module,
    reason_of,
    replace_when_done,
    require_dimensions,
    require_plausible,
    require_size,
    write_array,
)
from flowmatch.io._npy import read_npy_entry
from flowmatch.io._png import read_png16

# Middlebury's rule (flowIO.h): components beyond 1e9 are unknown; unknown ones are written as 1e10.
_LARGEST_KNOWN = 1e9
_UNKNOWN = 1e10
_AT_ONCE = 2**22  # numbers that are converted at once


def read_flow(path: FilePath) -> NDArray[np.float32]:
    """Read an optical flow file; the suffix determines the format.

    ``.flo`` (Middlebury, Sintel, FlyingChairs), ``.png`` (KITTI, 16 bits), ``.pfm`` (FlyingThings),
    ``.flo5`` (Spring; needs h5py), ``.npz`` (array ``flow`` and, optionally, bool ``valid``).

    Args:
        path: The file.

    Returns:
        Flow ``[H, W, 2]`` in pixels, u to the right and v down. Both components are NaN where the
        flow is unknown, so ``np.isfinite(flow[..., 0])`` is the valid mask.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The suffix is unknown, or the file is damaged or not what its suffix says.
        ImportError: The file is a ``.flo5`` file and h5py is not installed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "000000.flo"
        >>> write_flow(path, np.full((4, 6, 2), (1.5, -2.0)))
        >>> read_flow(path)[0, 0]
        array([ 1.5, -2. ], dtype=float32)

    Reference:
        Baker et al., A Database and Evaluation Methodology for Optical Flow, IJCV 2011 (.flo);
        Menze & Geiger, CVPR 2015 (.png); Mayer et al., CVPR 2016 (.pfm); Mehl et al., Spring,
        CVPR 2023 (.flo5).
    """
    path = existing_file(path)
    flow = entry_for_suffix(path, _FORMATS, "flow file").read(path)
    flow[~(np.abs(flow) <= _LARGEST_KNOWN).all(axis=2)] = np.nan
    return flow


def write_flow(path: FilePath, flow: ArrayLike) -> None:
    """Write an optical flow file; the suffix determines the format, as in `read_flow`.

    The file gets its name only when it is complete. All formats but KITTI's keep float32 exactly;
    KITTI's ``.png`` rounds to 1/64 px.

    Args:
        path: File to write; its folder must exist.
        flow: Flow ``[H, W, 2]`` of any float type, in pixels; unknown where either component is
            not finite.

    Raises:
        ValueError: Wrong shape or type, unknown suffix, or values that the format cannot hold.
        FileNotFoundError: The folder does not exist.
        ImportError: The file is a ``.flo5`` file and h5py is not installed.

    Example:
        >>> import tempfile
        >>> flow = np.zeros((2, 3, 2), np.float32)
        >>> flow[0, 0] = np.nan
        >>> write_flow(Path(tempfile.mkdtemp()) / "flow.png", flow)
    """
    path = Path(path)
    flow_format = entry_for_suffix(path, _FORMATS, "flow file")
    values = np.asarray(flow)
    if values.ndim != 3 or values.shape[2] != 2 or values.size == 0 or values.dtype.kind != "f":
        raise ValueError(
            f"{path}: flow must be floats [H, W, 2] with H and W at least 1, "
            f"got {values.dtype} {list(values.shape)}"
        )
    known = np.isfinite(values).all(axis=2, keepdims=True)
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)  # a copy
    np.copyto(values, np.nan, where=~known)
    largest = max(float(np.nanmax(values, initial=0)), -float(np.nanmin(values, initial=0)))
    if largest > _LARGEST_KNOWN:
        raise ValueError(
            f"{path}: flow must be within ±{_LARGEST_KNOWN:g} px, or NaN where unknown, "
            f"got {largest:g} px"
        )
    with replace_when_done(path) as temporary:
        flow_format.write(temporary, values, path)


def storable(path: FilePath, flow: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return where the format of a flow file can hold a flow.

    Args:
        path: The file; its suffix determines the format, as in `write_flow`.
        flow: Flow ``[H, W, 2]``, in pixels.

    Returns:
        Mask ``[H, W]``: both components are finite and in the range of the format.

    Example:
        >>> storable("flow.png", np.array([[(-512, 511.98), (512, 0)]])).tolist()
        [[True, False]]
    """
    least, most = entry_for_suffix(Path(path), _FORMATS, "flow file").limits
    return np.asarray(((flow >= least) & (flow <= most)).all(axis=2))


# ---- Middlebury .flo: "PIEH", width, height, then (u, v) row by row, little endian -------------


def _read_flo(path: Path) -> NDArray[np.float32]:
    with path.open("rb") as file:
        header = file.read(12)
        if len(header) < 12 or header[:4] != b"PIEH":
            raise ValueError(f"{path}: expected a .flo file starting with PIEH, got {header[:4]!r}")
        width, height = struct.unpack("<ii", header[4:])
        require_size(path, 12, height, width, pixel=8)
        values = np.fromfile(file, "<f4", height * width * 2)
    return values.reshape(height, width, 2).astype(np.float32, copy=False)


def _write_flo(temporary: Path, flow: NDArray[np.float32], path: Path) -> None:
    height, width, _ = flow.shape
    with temporary.open("wb") as file:
        file.write(b"PIEH" + struct.pack("<ii", width, height))
        for rows in np.array_split(flow, -(-flow.size // _AT_ONCE)):
            write_array(file, np.nan_to_num(rows, nan=_UNKNOWN).astype("<f4", copy=False))


# ---- KITTI .png: 16-bit R = 64 u + 2^15, G = 64 v + 2^15, B = 1 where valid --------------------


# Half a step below 512 is still rounded to 511 + 63/64.
_PNG_LIMITS = (-512.0, float(np.nextafter(np.float32(512 - 1 / 128), np.float32(0))))


def _read_png(path: Path) -> NDArray[np.float32]:
    bgr = read_png16(path, 3, "a KITTI flow PNG (RGB, 16 bits)")
    flow = np.asarray((bgr[..., :0:-1].astype(np.float32) - 2**15) / 64, np.float32)
    flow[bgr[..., 0] == 0] = np.nan
    return flow


def _write_png(temporary: Path, flow: NDArray[np.float32], path: Path) -> None:
    valid = np.isfinite(flow[..., 0])
    steps = np.rint(np.where(valid[..., None], flow, 0) * 64) + 2**15
    if not storable(path, flow)[valid].all():
        raise ValueError(
            f"{path}: a KITTI .png holds flow from -512 to {511 + 63 / 64} px, "
            f"got {np.nanmin(flow):g} to {np.nanmax(flow):g}; use .flo, .npz or .flo5"
        )
    bgr = np.zeros((*valid.shape, 3), np.uint16)
    bgr[..., 0] = valid
    bgr[valid, :0:-1] = steps[valid]
    _, encoded = cv2.imencode(".png", bgr)
    temporary.write_bytes(encoded.tobytes())


# ---- FlyingThings .pfm: three float channels (u, v, 0), bottom row first -----------------------

# One white space ends the header; the data may begin with bytes that look like it, so no `\s+`.
_PFM_HEADER = re.compile(rb"(P\w+)\s+([-+]?\d+)\s+([-+]?\d+)\s+([-+.\deE]+)\s")


def _read_pfm(path: Path) -> NDArray[np.float32]:
    with path.open("rb") as file:
        start = file.read(128)
    header = _PFM_HEADER.match(start)
    if header is None or header[1] != b"PF":
        raise ValueError(
            f"{path}: expected a .pfm file of three channels (PF, width, height, scale), "
            f"got one starting with {start[:16]!r}"
        )
    width, height = int(header[2]), int(header[3])
    try:
        scale = float(header[4])
    except ValueError:
        scale = 0.0
    if scale == 0:
        raise ValueError(
            f"{path}: expected a scale whose sign is the byte order, got {header[4]!r}"
        )
    require_size(path, header.end(), height, width, pixel=12)
    # Only the sign of the scale matters: flow is always stored in pixels.
    order = "<f4" if scale < 0 else ">f4"
    values = np.fromfile(path, order, height * width * 3, offset=header.end())
    return values.reshape(height, width, 3)[::-1, :, :2].astype(np.float32)


def _write_pfm(temporary: Path, flow: NDArray[np.float32], path: Path) -> None:
    height, width, _ = flow.shape
    pixels = np.zeros((height, width, 3), "<f4")
    pixels[..., :2] = flow[::-1]
    with temporary.open("wb") as file:
        file.write(b"PF\n%d %d\n-1\n" % (width, height))
        write_array(file, pixels)


# ---- .npz: NumPy's own, array "flow" and, optionally, bool "valid" -----------------------------


def _read_npz(path: Path) -> NDArray[np.float32]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "flow.npy" not in names:
                raise ValueError(f"{path}: expected an array 'flow', got {names}")
            flow = read_npy_entry(path, archive, "flow.npy", "f", (None, None, 2))
            # A float64 beyond float32 becomes infinite here, hence unknown in read_flow.
            with np.errstate(over="ignore", invalid="ignore"):  # signalling NaNs
                flow = flow.astype(np.float32)
            if "valid.npy" in names:
                flow[~read_npy_entry(path, archive, "valid.npy", "b", flow.shape[:2])] = np.nan
    except DAMAGED_ZIP as error:
        raise ValueError(f"{path}: expected an .npz file: {reason_of(error)}") from error
    return flow


def _write_npz(temporary: Path, flow: NDArray[np.float32], path: Path) -> None:
    with temporary.open("wb") as file:  # NumPy adds .npz to names that end in .NPZ
        np.savez_compressed(file, flow=flow)


# ---- Spring .flo5: HDF5 with one dataset "flow" ------------------------------------------------


def _read_flo5(path: Path) -> NDArray[np.float32]:
    h5py = optional_module("h5py", "reading .flo5 files")
    try:
        with h5py.File(path, "r") as file:
            # A link of another kind could open any file that its author names.
            if not isinstance(file.get("flow", getlink=True), h5py.HardLink):
                raise ValueError(f"{path}: expected a dataset 'flow', got {list(file)}")
            dataset = file["flow"]
            _require_plain_dataset(path, dataset, h5py)
            flow = dataset.astype(np.float32)[...]
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path}: expected an HDF5 file with a dataset 'flow': {reason_of(error)}"
        ) from error
    return np.asarray(flow, dtype=np.float32)


def _require_plain_dataset(path: Path, dataset: Any, h5py: Any) -> None:
    """Raise ValueError unless a dataset holds floats in this very file, plain or by gzip."""
    is_array = isinstance(dataset, h5py.Dataset) and dataset.dtype.kind == "f"
    if not is_array or dataset.ndim != 3 or dataset.shape[2] != 2:
        raise ValueError(f"{path}: 'flow' must be floats [H, W, 2], got {dataset}")
    require_dimensions(path, *dataset.shape[:2])
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{path}: 'flow' must be stored in the file itself, got a reference")
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]
    known = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
    # Each filter at most once: deflate on deflate would expand without a useful bound.
    if not set(filters) <= set(known) or len(filters) != len(set(filters)):
        raise ValueError(f"{path}: 'flow' must be compressed by gzip, got HDF5 filters {filters}")
    stored = min(dataset.id.get_storage_size(), path.stat().st_size)
    # Chunks may be larger than the dataset, and HDF5 allocates a whole one.
    for shape in (dataset.shape, dataset.chunks or ()):
        require_plausible(path, math.prod(shape) * dataset.dtype.itemsize, stored)


def _write_flo5(temporary: Path, flow: NDArray[np.float32], path: Path) -> None:
    h5py = optional_module("h5py", "writing .flo5 files")
    memory = io.BytesIO()  # on a full disk, HDF5 ends the process
    with h5py.File(memory, "w") as file:
        file.create_dataset("flow", data=flow, compression="gzip", shuffle=True)
    temporary.write_bytes(memory.getbuffer())


class _Format(NamedTuple):
    read: Callable[[Path], NDArray[np.float32]]
    # (path to write to, flow with NaN where unknown, final path for error messages)
    write: Callable[[Path, NDArray[np.float32], Path], None]
    limits: tuple[float, float] = (-_LARGEST_KNOWN, _LARGEST_KNOWN)  # of a component, px


# To add a format: write its reader and writer above, add its line here and golden bytes to the
# tests.
_FORMATS = {
    ".flo": _Format(_read_flo, _write_flo),
    ".png": _Format(_read_png, _write_png, _PNG_LIMITS),
    ".pfm": _Format(_read_pfm, _write_pfm),
    ".npz": _Format(_read_npz, _write_npz),
    ".flo5": _Format(_read_flo5, _write_flo5),
}
