"""Small valid files of every format, and repairs that let mutated ones past their checksums."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from flowmatch.io._cloud_table import CloudTable, PlyRest
from flowmatch.io._ply import write_ply_table


class Seed(NamedTuple):
    """A valid file.

    Attributes:
        name: Name with the suffix that its reader expects.
        content: Bytes that are mutated.
        repair: Function that makes a file of mutated bytes.
    """

    name: str
    content: bytes
    repair: Callable[[bytes], bytes] | None = None


RNG = np.random.default_rng(0)
FLOW = RNG.normal(0, 3, (3, 4, 2)).astype("<f4")
POINTS = RNG.normal(size=(5, 3)).astype("<f4")
PIXELS = RNG.integers(0, 256, (7, 9, 3), dtype=np.uint8)


# ---- containers ----------------------------------------------------------------------------------


def as_npy(array: np.ndarray) -> bytes:
    """Return the bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def as_npz(entries: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return the bytes of an .npz file with entries that are already encoded."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return file.getvalue()


def in_npz(name: str) -> Callable[[bytes], bytes]:
    """Return a repair that puts a mutated .npy file into an archive."""
    return lambda content: as_npz({name: content})


def png_checksums(data: bytes) -> bytes:
    """Return a PNG whose chunks have right checksums."""
    result, at = data[:8], 8
    while at + 8 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        chunk = data[at + 4 : at + 8 + length]
        if len(chunk) < 4 + length:
            break
        result += data[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + length
    return result + data[at:]


def header_length(data: bytes) -> bytes:
    """Return a safetensors file whose first number is the length of its JSON."""
    end = data.rfind(b"}") + 1
    end += len(data[end:]) - len(data[end:].lstrip(b" "))  # padding belongs to the JSON
    return struct.pack("<Q", max(end - 8, 0)) + data[8:] if end > 8 else data


# ---- flow ---------------------------------------------------------------------------------------


def flow_seeds() -> list[Seed]:
    """Return files of every flow format."""
    height, width, _ = FLOW.shape
    pfm = np.zeros((height, width, 3), "<f4")
    pfm[..., :2] = FLOW[::-1]
    kitti = np.zeros((height, width, 3), np.uint16)
    kitti[..., 0] = 1
    kitti[..., :0:-1] = FLOW * 64 + 2**15
    npy, valid = as_npy(FLOW), as_npy(np.ones((height, width), bool))
    archive = as_npz({"flow.npy": npy, "valid.npy": valid})
    stored = as_npz({"flow.npy": as_npy(FLOW.astype("f8"))}, zipfile.ZIP_STORED)
    return [
        Seed("a.flo", b"PIEH" + struct.pack("<ii", width, height) + FLOW.tobytes()),
        Seed("a.pfm", b"PF\n%d %d\n-1\n" % (width, height) + pfm.tobytes()),
        Seed("a.pfm", b"PF\n%d %d\n1.0\n" % (width, height) + pfm.astype(">f4").tobytes()),
        Seed("a.png", encoded(".png", kitti), png_checksums),
        Seed("a.npz", npy, in_npz("flow.npy")),
        Seed("a.npz", as_npy(np.asfortranarray(FLOW).astype(">f8")), in_npz("flow.npy")),
        Seed("a.npz", valid, lambda data: as_npz({"flow.npy": npy, "valid.npy": data})),
        Seed("a.npz", archive),
        Seed("a.npz", stored),
    ]


def flo5_seeds() -> list[Seed]:
    """Return HDF5 files of flow."""
    import h5py

    seeds = []
    for options in ({}, {"compression": "gzip", "shuffle": True}, {"chunks": (2, 2, 2)}):
        file = io.BytesIO()
        with h5py.File(file, "w") as archive:
            archive.create_dataset("flow", data=FLOW, **options)
        seeds.append(Seed("a.flo5", file.getvalue()))
    return seeds


# ---- clouds -------------------------------------------------------------------------------------


def ply_seeds() -> list[Seed]:
    """Return PLY files: text and both byte orders, with lists, faces and several line ends."""
    columns = {axis: POINTS[:, k] for k, axis in enumerate("xyz")}
    columns |= {"red": np.arange(5, dtype=np.uint8), "nx": POINTS[:, 0].astype("f8")}
    types = {name: column.dtype for name, column in columns.items()}
    face = b"property list uchar int vertex_indices"
    rows = {
        "": b"3 0 1 2\n4 0 1 2 3\n",
        "<": struct.pack("<B3iB4i", 3, 0, 1, 2, 4, 0, 1, 2, 3),
        ">": struct.pack(">B3iB4i", 3, 0, 1, 2, 4, 0, 1, 2, 3),
    }
    seeds = []
    for order, content in rows.items():
        for before in (True, False):
            lines = [b"element face 2", face]
            rest = PlyRest(
                order, [b"comment a"], lines if before else [], [] if before else lines,
                content if before else b"", b"" if before else content,
            )  # fmt: skip
            path = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp") / "seed.ply"
            write_ply_table(path, CloudTable(columns, types, (5, 1), [], rest))
            seeds.append(Seed("a.ply", path.read_bytes()))
            path.unlink()
    text = b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"
    text += b"property float z\nproperty list uchar int n\nend_header\n"
    seeds.append(Seed("a.ply", text + b"1 2 3 0\n4 5 6 2 7 8\n"))
    seeds.append(Seed("a.ply", (text + b"1 2 3 0\n4 5 6 2 7 8\n").replace(b"\n", b"\r\n")))
    binary = text.replace(b"ascii", b"binary_little_endian")
    row = struct.pack("<3fB", 1, 2, 3, 0) + struct.pack("<3fBii", 4, 5, 6, 2, 7, 8)
    seeds.append(Seed("a.ply", binary + row))
    return seeds


PLY_WORDS = (
    b"ascii", b"binary_little_endian", b"binary_big_endian", b"char", b"uchar", b"short",
    b"ushort", b"int", b"uint", b"float", b"double", b"list", b"int8", b"uint32", b"float64",
    b"vertex", b"face", b"element", b"property", b"comment", b"obj_info", b"end_header", b"format",
    b"x", b"y", b"z", b"\n", b"\r", b"\r\n", b"\n\r",
)  # fmt: skip


def pcd_seeds() -> list[Seed]:
    """Return PCD files: text, binary, compressed, organised, with counts and padding."""
    fields = b"FIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\n"
    size = b"WIDTH 5\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 5\n"
    head = b"# .PCD v0.7\nVERSION 0.7\n" + fields + size
    lines = b"".join(b"%g %g %g %d\n" % (*p, k) for k, p in enumerate(POINTS.tolist()))
    table = np.zeros(5, [("p", "<f4", 3), ("c", "<u4")])
    table["p"] = POINTS
    planar = b"".join(POINTS[:, k].tobytes() for k in range(3)) + table["c"].tobytes()
    packed = b"".join(
        bytes([len(part) - 1]) + part for part in (planar[k : k + 32] for k in range(0, 80, 32))
    )
    packed_zeros = bytes([0, 0, 0xE0, 70, 0])  # a zero, and 79 repetitions
    compressed = struct.pack("<II", len(packed), len(planar)) + packed
    zeros = struct.pack("<II", len(packed_zeros), 80) + packed_zeros
    padded = b"FIELDS x _ y z n\nSIZE 4 1 8 4 2\nTYPE F U F F I\nCOUNT 1 4 1 1 3\n"
    row = struct.pack("<f4Bdf3h", 1, 0, 0, 0, 0, 2, 3, 4, 5, 6)
    organised = padded + b"WIDTH 2\nHEIGHT 1\nDATA binary\n" + row * 2
    return [
        Seed("a.pcd", head + b"DATA ascii\n" + lines),
        Seed("a.pcd", head + b"DATA binary\n" + table.tobytes()),
        Seed("a.pcd", head + b"DATA binary_compressed\n" + compressed),
        Seed("a.pcd", head + b"DATA binary_compressed\n" + zeros),
        Seed("a.pcd", organised),
    ]


PCD_WORDS = (
    b"FIELDS", b"SIZE", b"TYPE", b"COUNT", b"WIDTH", b"HEIGHT", b"POINTS", b"DATA", b"ascii",
    b"binary", b"binary_compressed", b"F", b"U", b"I", b"x", b"y", b"z", b"_", b"VIEWPOINT", b"\r",
)  # fmt: skip


def cloud_seeds() -> list[Seed]:
    """Return clouds in NumPy's formats and as plain text."""
    text = b"# a scan\n1 2 3\n4.5 5e1 -6 7\n// b\n7, 8, 9\n"
    return [
        Seed("a.npy", as_npy(POINTS)),
        Seed("a.npy", as_npy(np.asfortranarray(POINTS.astype("f8")))),
        Seed("a.npz", as_npy(POINTS), in_npz("points.npy")),
        Seed("a.npz", as_npz({"cloud.npy": as_npy(POINTS)}, zipfile.ZIP_STORED)),
        Seed("a.xyz", text),
        Seed("a.xyz", b"1,2,3\n4,5,6\n"),
    ]


# ---- poses, cameras and lists -------------------------------------------------------------------

MATRIX = b"1 0 0 0.5\n0 1 0 1e-3\n0 0 1 -2\n0 0 0 1\n"


def pose_seeds() -> list[Seed]:
    """Return poses, intrinsics, logs of fragments, homographies and cameras of panoramas."""
    flat = MATRIX.replace(b"\n", b" ")
    camera = {
        "name": "a.jpg", "width": 640, "height": 480, "focal": 500.0, "aspect": 1.0,
        "centre": [319.5, 239.5], "matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    }  # fmt: skip
    cameras = {"format": "flowmatch cameras 1", "motion": "rotation", "projection": "plane",
               "error": 0.25, "photos": [camera]}  # fmt: skip
    xml = b'<?xml version="1.0"?>\n<opencv_storage>\n<H type_id="opencv-matrix">\n<rows>3</rows>'
    xml += b"\n<cols>3</cols>\n<dt>d</dt>\n<data>\n1. 0. 0. 0. 1. 0. 0. 0. 1.</data></H>\n"
    return [
        Seed("poses.txt", b"# name and pose\na " + flat + b"\nb " + flat + b"\n"),
        Seed("intrinsics.txt", b"500 0 320\n0 500 240\n0 0 1\n"),
        Seed("intrinsics.txt", b"500, 500, 320, 240"),
        Seed("gt.log", b"0 1 3\n" + MATRIX + b"0\t2\t3\n" + MATRIX),
        Seed("H_1_2", b"1 0 3\n0 1 -4\n1e-5 0 1\n"),
        Seed("H.xml", xml + b"</opencv_storage>\n"),
        Seed("rig.json", json.dumps(cameras).encode()),
        Seed("gt.npy", as_npy(np.eye(4))),
    ]


WEIGHT_WORDS = (
    b"F16", b"F32", b"F64", b"BF16", b"I64", b"I8", b"U8", b"BOOL", b"F8_E4M3", b"F8_E5M2", b"U16",
    b"C64", b"F4", b"F8_E8M0", b"dtype", b"shape", b"data_offsets", b"__metadata__", b"model",
    b"arguments", b"null", b"true", b"[]", b"{}", b"weight", b"bias", b"\"", b",", b"1e999",
)  # fmt: skip


def encoded(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
    """Return a picture as OpenCV encodes it."""
    return cv2.imencode(suffix, pixels, options)[1].tobytes()
