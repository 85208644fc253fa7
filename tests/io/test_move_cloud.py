"""Moved copies of cloud files keep all properties and rows."""

import struct

import numpy as np
import pytest

from flowmatch.io import move_cloud_file, read_cloud

TURN = np.array([[0.0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]])
NAN = float("nan")
ROWS = [  # x, y, z, red, green, blue, nx, ny, nz, intensity, time
    (1.0, 2.0, 3.0, 255, 0, 7, 1.0, 0.0, 0.0, 0.1, 1.5e9),
    (NAN, NAN, NAN, 1, 2, 3, NAN, NAN, NAN, 0.2, 2.5e9),
    (4.0, 5.0, 6.0, 9, 8, 250, 0.0, 0.0, 1.0, 0.3, 3.5e9),
]
MOVED = [[8, 21, 33], [NAN, NAN, NAN], [5, 24, 36]]
NORMALS = [[0, 1, 0], [NAN, NAN, NAN], [0, 0, 1]]
FACES = [(3, 0, 2, 1), (3, 2, 2, 0)]


def ply(order):
    """Return a PLY file with a camera, three coloured vertices and two faces."""
    form = {"<": "binary_little_endian", ">": "binary_big_endian", "": "ascii"}[order]
    lines = ["ply", f"format {form} 1.0", "comment Å", "element camera 1", "property short id"]
    lines += ["element vertex 3", *(f"property float {axis}" for axis in "xyz")]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
    lines += [f"property float {name}" for name in ("nx", "ny", "nz", "intensity")]
    lines += ["property double time", "element face 2", "property list uchar int vertex_indices"]
    text = "\n".join([*lines, "end_header", ""]).encode()
    if order:
        text += struct.pack(f"{order}h", 7)
        text += b"".join(struct.pack(f"{order}3f3B4fd", *row) for row in ROWS)
        return text + b"".join(struct.pack(f"{order}B3i", *face) for face in FACES)
    for row in ((7,), *ROWS, *FACES):
        text += " ".join(str(x) for x in row).encode() + b"\n"
    return text


def pcd(data):
    names = "x y z _ rgb normal_x normal_y normal_z intensity pair time"
    header = f"FIELDS {names}\nSIZE 4 4 4 1 4 4 4 4 4 2 8\nTYPE F F F U F F F F F I U\n"
    header += "COUNT 1 1 1 4 1 1 1 1 1 2 1\n"
    header += f"WIDTH 1\nHEIGHT 3\nPOINTS 3\nDATA {data}\n"
    content = header.encode()
    for x, y, z, red, green, blue, *others in ROWS:
        rgb = struct.unpack("<f", bytes([blue, green, red, 0]))[0]
        *others, time = others
        row = (x, y, z, 0, 0, 0, 0, rgb, *others, -5, 6, int(time) * 10**9 + 1)
        if data == "binary":
            content += struct.pack("<3f4B5f2hQ", *row)
        else:
            content += " ".join(repr(value) for value in row).encode() + b"\n"
    return content


@pytest.mark.parametrize("order", ["<", ">"])
def test_binary_ply_keeps_everything_but_the_coordinates(order, tmp_path):
    (tmp_path / "a.ply").write_bytes(ply(order))
    assert move_cloud_file(tmp_path / "a.ply", tmp_path / "b.ply", TURN) == []
    expected = ply(order)
    at = expected.index(b"end_header\n") + len(b"end_header\n") + 2
    for k, row in enumerate(ROWS):
        row = (*MOVED[k], *row[3:6], *NORMALS[k], *row[9:])
        packed = struct.pack(f"{order}3f3B4fd", *row)
        expected = (
            expected[: at + k * len(packed)] + packed + expected[at + (k + 1) * len(packed) :]
        )
    assert (tmp_path / "b.ply").read_bytes() == expected


def test_text_ply_keeps_everything_but_the_coordinates(tmp_path):
    (tmp_path / "a.ply").write_bytes(ply(""))
    assert move_cloud_file(tmp_path / "a.ply", tmp_path / "b.ply", TURN) == []
    lines = (tmp_path / "b.ply").read_bytes().splitlines()
    source = ply("").splitlines()
    assert lines[:-5] == source[:-5]
    assert lines[-2:] == source[-2:]
    for k, line in enumerate(lines[-5:-2]):
        expected = [*MOVED[k], *ROWS[k][3:6], *NORMALS[k], *ROWS[k][9:]]
        np.testing.assert_allclose([float(word) for word in line.split()], expected)
    assert b" 0.1 " in lines[-5]


@pytest.mark.parametrize("data", ["ascii", "binary"])
def test_pcd_keeps_everything_but_the_coordinates(data, tmp_path):
    (tmp_path / "a.pcd").write_bytes(pcd(data))
    assert move_cloud_file(tmp_path / "a.pcd", tmp_path / "b.pcd", TURN) == []
    header, _, content = (tmp_path / "b.pcd").read_bytes().partition(b"DATA binary\n")
    assert b"WIDTH 1\nHEIGHT 3\n" in header
    assert b"FIELDS x y z rgb normal_x normal_y normal_z intensity pair time\n" in header
    assert b"COUNT 1 1 1 1 1 1 1 1 2 1\n" in header
    for k, row in enumerate(struct.iter_unpack("<3f4B4f2hQ", content)):
        np.testing.assert_array_equal(row[:3], MOVED[k])
        assert row[3:7] == (*ROWS[k][5:2:-1], 0)
        np.testing.assert_array_equal(row[7:10], NORMALS[k])
        assert row[10] == np.float32(ROWS[k][9])
        assert row[11:13] == (-5, 6)
        assert row[13] == int(ROWS[k][10]) * 10**9 + 1


def test_colours_and_normals_from_one_format_to_the_other(tmp_path):
    (tmp_path / "a.ply").write_bytes(ply(">"))
    assert move_cloud_file(tmp_path / "a.ply", tmp_path / "b.pcd", TURN) == ["camera", "face"]
    header, _, content = (tmp_path / "b.pcd").read_bytes().partition(b"DATA binary\n")
    assert b"FIELDS x y z rgb normal_x normal_y normal_z intensity time\n" in header
    assert content[12:15] == bytes([7, 0, 255])
    assert move_cloud_file(tmp_path / "b.pcd", tmp_path / "c.ply", np.eye(4)) == []
    header, _, content = (tmp_path / "c.ply").read_bytes().partition(b"end_header\n")
    names = [line.split()[-1] for line in header.splitlines() if line.startswith(b"property")]
    assert names == b"x y z red green blue nx ny nz intensity time".split()
    for k, row in enumerate(struct.iter_unpack("<3f3B4fd", content)):
        np.testing.assert_array_equal(row[:3], MOVED[k])
        assert row[3:6] == ROWS[k][3:6]
        np.testing.assert_array_equal(row[6:9], NORMALS[k])


def test_coordinates_far_away_become_double(tmp_path):
    (tmp_path / "a.ply").write_bytes(ply("<"))
    far = TURN + [[0, 0, 0, 5e6], *[[0] * 4] * 3]
    move_cloud_file(tmp_path / "a.ply", tmp_path / "b.ply", far)
    np.testing.assert_array_equal(
        read_cloud(tmp_path / "b.ply"), [[5e6 + 8, 21, 33], [5e6 + 5, 24, 36]]
    )


def test_lists_in_vertices_are_named(tmp_path):
    text = "ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int ids\n"
    text += "property float x\nproperty float y\nproperty float z\nend_header\n2 8 9 1 2 3\n"
    (tmp_path / "a.ply").write_text(text)
    assert move_cloud_file(tmp_path / "a.ply", tmp_path / "b.ply", np.eye(4)) == ["ids"]
    assert read_cloud(tmp_path / "b.ply").tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("order", ["<", ""])
def test_formats_without_properties_name_what_is_lost(order, tmp_path):
    (tmp_path / "a.ply").write_bytes(ply(order))
    lost = ["red", "green", "blue", "nx", "ny", "nz", "intensity", "time", "camera", "face"]
    assert move_cloud_file(tmp_path / "a.ply", tmp_path / "b.npy", TURN) == lost
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), MOVED)  # all rows, in their order
    with pytest.raises(ValueError, match=r"one of \.ply, \.pcd"):
        move_cloud_file(tmp_path / "a.ply", tmp_path / "b.e57", TURN)


def test_text_keeps_its_further_columns(tmp_path):
    (tmp_path / "a.xyz").write_text("1 2 3 255 0.1\nnan nan nan 7 -1e-9\n4 5 6 0 1e22\n")
    assert move_cloud_file(tmp_path / "a.xyz", tmp_path / "b.xyz", TURN) == []
    text = "8 21 33 255 0.1\nnan nan nan 7 -1e-09\n5 24 36 0 1e+22\n"
    assert (tmp_path / "b.xyz").read_text() == text
    (tmp_path / "c.xyz").write_text("1 2 3 4\n4 5 6\n")
    lost = move_cloud_file(tmp_path / "c.xyz", tmp_path / "d.xyz", TURN)
    assert lost == ["further columns"]


def test_npz_keeps_its_arrays(tmp_path):
    arrays = {
        "points": np.array([row[:3] for row in ROWS], np.float32),
        "colors": np.array([row[3:6] for row in ROWS], np.uint8),
        "normals": np.array([row[6:9] for row in ROWS]),
        "label": np.array([-(2**40), 2, 3]),
        "name": np.array("scan"),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    assert move_cloud_file(tmp_path / "a.npz", tmp_path / "b.npz", TURN) == ["name"]
    moved = np.load(tmp_path / "b.npz")
    expected = arrays | {"points": np.float32(MOVED), "normals": np.array(NORMALS, np.float64)}
    assert {*moved} == {*expected} - {"name"}
    for name in moved:
        np.testing.assert_array_equal(moved[name], expected[name])
        assert moved[name].dtype == expected[name].dtype
    move_cloud_file(tmp_path / "a.npz", tmp_path / "b.ply", TURN)
    header = (tmp_path / "b.ply").read_bytes().partition(b"end_header")[0]
    names = [line.split()[-1] for line in header.splitlines() if line.startswith(b"property")]
    assert names == b"x y z red green blue label nx ny nz".split()


def test_a_scale_lengthens_no_normal(tmp_path):
    (tmp_path / "a.ply").write_bytes(ply("<"))
    scaled = TURN @ np.diag([2.0, 2, 2, 1])
    move_cloud_file(tmp_path / "a.ply", tmp_path / "b.npz", scaled)
    moved = np.load(tmp_path / "b.npz")
    np.testing.assert_allclose(moved["points"][0], [6, 22, 36])
    np.testing.assert_allclose([moved["nx"][0], moved["ny"][0]], [0, 1], atol=1e-7)
