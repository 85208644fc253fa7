"""Mesh files as scans: sampled points, and moved copies that keep all else."""

import json
import struct
import tracemalloc

import numpy as np
import pytest

from flowmatch.io import move_cloud_file, read_cloud, write_cloud, write_mesh

trimesh = pytest.importorskip("trimesh")

TURN = np.array([[0.0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]])
CORNERS = np.array([[0.0, 0, 0], [4, 0, 0], [0, 1, 0], [0, 0, 3]])
FACES = np.array([[0, 2, 1], [0, 1, 3]])
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)
OBJ = b"""# by hand\r
mtllib wood.mtl\r
v 1 2 3 0.1 0.2 0.3\r
v  4 5 6\r
v 0.1 0 0\r
vt 0.5 0.5\r
vn 1 0 0\r
usemtl wood\r
f 1/1/1 2/1/1 3/1/1\r
"""


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".stl"])
def test_points_cover_the_triangles_evenly(suffix, tmp_path):
    write_mesh(tmp_path / f"a{suffix}", CORNERS, FACES)
    points = read_cloud(tmp_path / f"a{suffix}")
    assert points.shape == (100_000, 3)
    np.testing.assert_array_equal(points, read_cloud(tmp_path / f"a{suffix}"))
    flat = np.abs(points[:, 2]) < 1e-6
    assert flat.mean() == pytest.approx(2 / (2 + 6), abs=0.01)  # by area
    np.testing.assert_allclose(points[flat].mean(0), [4 / 3, 1 / 3, 0], atol=0.02)
    np.testing.assert_allclose(points[~flat].mean(0), [4 / 3, 0, 1], atol=0.02)


def test_obj_keeps_all_other_lines(tmp_path):
    (tmp_path / "a.obj").write_bytes(OBJ)
    assert move_cloud_file(tmp_path / "a.obj", tmp_path / "b.obj", TURN) == []
    expected = OBJ.replace(b"v 1 2 3 0.1", b"v 8 21 33 0.1").replace(b"v  4 5 6", b"v 5 24 36")
    expected = expected.replace(b"v 0.1 0 0", b"v 10 20.1 30").replace(b"n 1 0 0", b"n 0 1 0")
    assert (tmp_path / "b.obj").read_bytes() == expected


def test_far_obj_keeps_its_digits(tmp_path):
    (tmp_path / "a.obj").write_text("v 500000.1234 5000000.5678 7\nv 1 1 1\nv 0 0 1\nf 1 2 3\n")
    move_cloud_file(tmp_path / "a.obj", tmp_path / "b.obj", np.eye(4))
    assert "v 500000.1234 5000000.5678 7" in (tmp_path / "b.obj").read_text()


def test_stl(tmp_path):
    write_mesh(tmp_path / "a.stl", CORNERS, FACES)
    content = bytearray((tmp_path / "a.stl").read_bytes())
    content[:9], content[-2:] = b"my header", b"\1\2"
    (tmp_path / "a.stl").write_bytes(content)
    assert move_cloud_file(tmp_path / "a.stl", tmp_path / "b.stl", TURN) == []
    moved = (tmp_path / "b.stl").read_bytes()
    assert moved[:84] == content[:84]
    assert moved[-2:] == b"\1\2"
    corners = trimesh.load_mesh(tmp_path / "b.stl", process=False).triangles
    np.testing.assert_allclose(corners, CORNERS[FACES] @ TURN[:3, :3].T + TURN[:3, 3])
    text = "solid x\n facet normal 1 0 0\n  outer loop\n   vertex 1 2 3\n"
    (tmp_path / "c.stl").write_text(text)
    move_cloud_file(tmp_path / "c.stl", tmp_path / "d.stl", TURN)
    expected = text.replace("normal 1 0 0", "normal 0 1 0").replace("1 2 3", "8 21 33")
    assert (tmp_path / "d.stl").read_text() == expected


def test_glb_keeps_its_buffers(tmp_path):
    write_mesh(tmp_path / "a.glb", CORNERS, FACES, colours=COLOURS)
    far = TURN + [[0, 0, 0, 5e6], *[[0] * 4] * 3]
    assert move_cloud_file(tmp_path / "a.glb", tmp_path / "b.glb", far) == []
    documents, buffers = [], []
    for name in "ab":
        content = (tmp_path / f"{name}.glb").read_bytes()
        length = struct.unpack_from("<I", content, 12)[0]
        documents.append(json.loads(content[20 : 20 + length]))
        buffers.append(content[20 + length :])
    assert buffers[0] == buffers[1]
    assert documents[0]["meshes"] == documents[1]["meshes"]
    scene = trimesh.load_scene(tmp_path / "b.glb")
    np.testing.assert_allclose(
        scene.to_mesh().vertices, CORNERS @ far[:3, :3].T + far[:3, 3], rtol=0, atol=1e-8
    )


def test_from_one_kind_to_another(tmp_path):
    write_mesh(tmp_path / "a.ply", CORNERS, FACES, colours=COLOURS)
    assert move_cloud_file(tmp_path / "a.ply", tmp_path / "b.glb", TURN) == []
    mesh = trimesh.load_mesh(tmp_path / "b.glb", process=False)
    np.testing.assert_allclose(mesh.vertices, CORNERS @ TURN[:3, :3].T + TURN[:3, 3])
    np.testing.assert_array_equal(mesh.visual.vertex_colors[:, :3], COLOURS)
    assert move_cloud_file(tmp_path / "b.glb", tmp_path / "c.stl", np.eye(4)) == ["colours"]
    assert move_cloud_file(tmp_path / "a.ply", tmp_path / "c.obj", np.eye(4)) == []
    assert len(trimesh.load_mesh(tmp_path / "c.obj").faces) == 2
    assert move_cloud_file(tmp_path / "b.glb", tmp_path / "c.ply", np.eye(4)) == []
    write_cloud(tmp_path / "points.ply", CORNERS)
    with pytest.raises(ValueError, match=r"points\.ply has no triangles"):
        move_cloud_file(tmp_path / "points.ply", tmp_path / "d.glb", TURN)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".stl"])
def test_damaged_files(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    for content in (b"glTF\2\0\0\0\xff\xff\xff\xff", b"v 1 2\nf 1 2 3\n", b"v a b c\n", b"\0" * 90):
        path.write_bytes(content)
        for read in (read_cloud, lambda path: move_cloud_file(path, path.with_stem("b"), TURN)):
            try:
                read(path)
            except ValueError as error:
                assert path.name in str(error)


def glb(document, claimed=0):
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text) + claimed, 0x4E4F534A)
    return head + text


def test_glb_that_claims_memory(tmp_path):
    """trimesh allocates the bytes that a part claims, and the zeros of a list without data."""
    path = tmp_path / "a.glb"
    zeros = {"count": 2**31, "componentType": 5126, "type": "VEC3"}
    for content, message in (
        (glb({}, 2**31), f"a part of it claims {2**31 + 4} bytes, the file ends {2**31} bytes too"),
        (glb({"accessors": [zeros]}), f"claims {2**31} zeros, more than its 100 bytes"),
    ):
        path.write_bytes(content)
        tracemalloc.start()
        with pytest.raises(ValueError, match=message):
            read_cloud(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**24


def test_numbers_that_no_mesh_has_print_nothing(tmp_path, capfd, recwarn):
    """trimesh logs a traceback for facets without normals; NumPy warns where sums overflow."""
    facet = "facet normal {}\nouter loop\nvertex 1e308 0 0\nvertex 1 0 0\nvertex 0 1e308 0\n"
    for normal in ("0 0 1", "1e308 1e308 1e308", "a"):
        text = f"solid a\n{facet.format(normal)}endloop\nendfacet\nendsolid a\n"
        (tmp_path / "a.stl").write_text(text)
        assert read_cloud(tmp_path / "a.stl").shape[1] == 3
        if normal != "a":
            move_cloud_file(tmp_path / "a.stl", tmp_path / "b.stl", np.eye(4))
    assert capfd.readouterr().err == ""
    assert not recwarn.list
