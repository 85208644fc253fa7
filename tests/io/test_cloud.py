"""Point cloud files: round trips, golden bytes, and errors."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmatch._opencv import cv2
from flowmatch.io import CLOUD_SUFFIXES
from flowmatch.io.cloud import (
    depth_to_points,
    read_cloud,
    read_depth,
    read_intrinsics,
    write_cloud,
)
from flowmatch.io.flow import read_flow

POINTS = np.array([[1.5, -2.25, 3], [0, 1e-3, -7], [1e6, 4, 5]])


@pytest.mark.parametrize("suffix", [*CLOUD_SUFFIXES, ".NPZ", ".Npy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip(suffix, dtype, tmp_path):
    path = tmp_path / f"cloud{suffix}"
    write_cloud(path, POINTS.astype(dtype))
    np.testing.assert_array_equal(read_cloud(path).astype(dtype), POINTS.astype(dtype))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".ply", ".pcd", ".npy", ".xyz"])
def test_an_empty_cloud(suffix, tmp_path):
    write_cloud(tmp_path / f"c{suffix}", np.zeros((0, 3)))
    assert read_cloud(tmp_path / f"c{suffix}").shape == (0, 3)


def test_points_that_are_not_finite_are_dropped(tmp_path):
    write_cloud(tmp_path / "c.npy", [[np.nan, 0, 0], [1, 2, 3], [0, np.inf, 0]])
    assert read_cloud(tmp_path / "c.npy").tolist() == [[1, 2, 3]]


def test_colours_and_normals(tmp_path):
    colours = np.arange(9, dtype=np.uint8).reshape(3, 3)
    write_cloud(tmp_path / "c.ply", POINTS, colours)
    np.testing.assert_array_equal(read_cloud(tmp_path / "c.ply"), POINTS)
    assert bytes(range(6, 9)) == (tmp_path / "c.ply").read_bytes()[-3:]
    write_cloud(tmp_path / "c.npz", POINTS, colours, normals=np.eye(3))
    arrays = np.load(tmp_path / "c.npz")
    np.testing.assert_array_equal(arrays["green"], colours[:, 1])
    np.testing.assert_array_equal(arrays["ny"], [0, 1, 0])
    with pytest.raises(ValueError, match=r"\.npy, \.xyz hold no colours"):
        write_cloud(tmp_path / "c.npy", POINTS, colours)
    with pytest.raises(ValueError, match=r"normals must be \[3, 3\]"):
        write_cloud(tmp_path / "c.ply", POINTS, normals=np.eye(3)[:2])


# ---- golden bytes -------------------------------------------------------------------------------

PLY_TEXT = b"""ply
format ascii 1.0
comment made by hand
element camera 1
property float f
element vertex 2
property uchar red
property float z
property float x
property float y
element face 1
property list uchar int vertex_indices
end_header
7
255 3 1.5 -2.25
0 6 4 5
3 0 1 1
"""
GOLDEN = [[1.5, -2.25, 3], [4, 5, 6]]


def ply_binary(order):
    name = {"<": "little", ">": "big"}[order]
    text = PLY_TEXT.replace(b"ascii", f"binary_{name}_endian".encode())
    header = text[: text.index(b"end_header")] + b"end_header\n"
    rows = struct.pack(f"{order}B3fB3f", 255, 3, 1.5, -2.25, 0, 6, 4, 5)
    return header + struct.pack(f"{order}f", 7) + rows + b"\3" + struct.pack(f"{order}3i", 0, 1, 1)


PCD = (
    "# .PCD v.7\nVERSION .7\nFIELDS x rgb y z\nSIZE 4 1 4 8\nTYPE F U F F\nCOUNT 1 3 1 1\n"
    "WIDTH 2\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 2\nDATA "
)
PCD_ASCII = f"{PCD}ascii\n1.5 1 2 3 -2.25 3\n4 0 0 0 5 6\n".encode()
PCD_BINARY = f"{PCD}binary\n".encode() + struct.pack(
    "<f3Bfdf3Bfd", 1.5, 1, 2, 3, -2.25, 3, 4, 0, 0, 0, 5, 6
)
# Field by field: x x, rgb rgb, y y, z z. One literal run, then a reference that overlaps itself.
FIELDS = struct.pack("<2f6B2f2d", 1.5, 4, 9, 9, 9, 9, 9, 9, -2.25, 5, 3, 6)
LZF = b"\x08" + FIELDS[:9] + b"\x60\x00" + b"\x17" + FIELDS[14:38]
PCD_COMPRESSED = f"{PCD}binary_compressed\n".encode() + struct.pack("<2I", len(LZF), 38) + LZF


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ply", PLY_TEXT),
        ("a.ply", PLY_TEXT.replace(b"\n", b"\r\n")),
        ("a.ply", ply_binary("<")),
        ("a.ply", ply_binary(">")),
        ("a.pcd", PCD_ASCII),
        ("a.pcd", PCD_BINARY),
        ("a.pcd", PCD_COMPRESSED),
        ("a.xyz", b"# x y z\n1.5, -2.25, 3, 77\n4 5 6 0 // last\n"),
    ],
)
def test_golden_bytes(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert read_cloud(tmp_path / name).tolist() == GOLDEN


# ---- errors --------------------------------------------------------------------------------------

NPY_HUGE = b"\x93NUMPY\x01\x00v\x00" + (
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000, 3), }".ljust(117) + b"\n"
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ply", b"", "starting with ply"),
        ("a.ply", b"ply\nformat ascii 1.0\n", "end_header"),
        ("a.ply", PLY_TEXT.replace(b"ascii", b"binary"), "format binary"),
        ("a.ply", PLY_TEXT.replace(b"vertex 2", b"vertex 999999999999"), "claims"),
        ("a.ply", ply_binary("<").replace(b"vertex 2", b"vertex 99999999"), "99999999 vertices"),
        ("a.ply", PLY_TEXT.replace(b"vertex 2", b"vertex 5"), "numbers"),
        ("a.ply", PLY_TEXT.replace(b"float z", b"float w"), "x, y and z"),
        ("a.ply", PLY_TEXT.replace(b"element vertex", b"element corner"), "element vertex"),
        ("a.pcd", PCD_ASCII[:50], "DATA"),
        ("a.pcd", PCD_BINARY[:-1], "expected 46 bytes|expected 38 bytes"),
        ("a.pcd", PCD_BINARY.replace(b"POINTS 2", b"POINTS 99999999"), "99999999 points"),
        ("a.pcd", PCD_COMPRESSED[:-1], "compressed bytes"),
        ("a.pcd", PCD_COMPRESSED.replace(b"\x60\x00", b"\x7f\xff"), "damaged"),
        ("a.npy", NPY_HUGE, "4000000000 points"),
        ("a.npz", b"PK", "npz"),
        ("a.xyz", b"one two three\n", "numbers"),
        ("a.xyz", b"1 2\n3 4\n", "numbers"),
        ("a.e57", b"", "ending in one of .ply"),
    ],
)
def test_errors_name_the_file_and_allocate_no_memory(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            read_cloud(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "content", [PLY_TEXT, ply_binary("<"), PCD_ASCII, PCD_BINARY, PCD_COMPRESSED, NPY_HUGE]
)
def test_garbage_raises_only_value_errors(content, tmp_path):
    suffix = {b"ply": ".ply", b"# .": ".pcd"}.get(content[:3], ".npy")
    path = tmp_path / f"garbage{suffix}"

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.integers(0, len(content)), st.integers(0, 12), st.binary(max_size=12))
    def check(at, drop, instead):
        path.write_bytes(content[:at] + instead + content[at + drop :])
        try:
            points = read_cloud(path)
        except ValueError as error:
            assert path.name in str(error)
        else:
            assert points.shape[1:] == (3,)
            assert np.isfinite(points).all()

    check()


# ---- depth --------------------------------------------------------------------------------------


def test_depth_becomes_points(tmp_path):
    depth = np.zeros((3, 4), np.uint16)
    depth[1, 3] = 2500
    cv2.imwrite(str(tmp_path / "d.png"), depth)
    (tmp_path / "k.txt").write_text("2 0 1\n0 4 2\n0 0 1\n")
    camera = read_intrinsics(tmp_path / "k.txt")
    points = depth_to_points(read_depth(tmp_path / "d.png"), camera)
    np.testing.assert_allclose(points, [[2.5, -0.625, 2.5]], rtol=1e-6)
    (tmp_path / "short.txt").write_text("2, 4, 1, 2")
    np.testing.assert_array_equal(read_intrinsics(tmp_path / "short.txt"), camera)


@pytest.mark.parametrize("unit", [0.001, 1 / 5000])
def test_zero_and_saturated_depth_is_unknown(unit, tmp_path):
    """65535 marks unknown depth in 7-Scenes, and saturates where 16 bits end."""
    cv2.imwrite(str(tmp_path / "d.png"), np.array([[1500, 0, 65535, 65534]], np.uint16))
    expected = np.array([[1500, np.nan, np.nan, 65534]]) * unit
    np.testing.assert_array_equal(read_depth(tmp_path / "d.png", unit), np.float32(expected))
    near = read_depth(tmp_path / "d.png", unit, max_depth=5)
    np.testing.assert_array_equal(near, np.float32([[1500 * unit, np.nan, np.nan, np.nan]]))
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="max_depth must be a positive number"):
            read_depth(tmp_path / "d.png", max_depth=wrong)


def test_other_pictures_are_not_depth(tmp_path):
    cv2.imwrite(str(tmp_path / "d.png"), np.zeros((3, 4), np.uint8))
    with pytest.raises(ValueError, match=r"d\.png: expected depth of 16 bits.* 8 bits"):
        read_depth(tmp_path / "d.png")
    (tmp_path / "k.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"k\.txt: expected a camera matrix"):
        read_intrinsics(tmp_path / "k.txt")
    for text in ("60 0 0 0 60 0 32 24 1", "60 0 32 0 60 24 0 0 0"):  # transposed, singular
        (tmp_path / "k.txt").write_text(text)
        with pytest.raises(ValueError, match=r"k\.txt: expected a camera matrix"):
            read_intrinsics(tmp_path / "k.txt")


@pytest.mark.parametrize("read", [read_cloud, read_flow])
def test_an_archive_with_negative_offsets_is_an_error(read, tmp_path):
    np.savez(tmp_path / "c.npz", points=np.eye(3), flow=np.zeros((2, 2, 2)))
    content = bytearray((tmp_path / "c.npz").read_bytes())
    end = content.rindex(b"PK\5\6")
    content[end + 16 : end + 20] = (2**31).to_bytes(4, "little")  # where the directory begins
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.npz: expected an \.npz file"):
        read(tmp_path / "c.npz")
