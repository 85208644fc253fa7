"""Triangle meshes, read back by trimesh."""

import numpy as np
import pytest
import trimesh

from flowmatch.io import read_cloud, write_mesh

POINTS = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
FACES = [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)


@pytest.mark.parametrize("suffix", ["ply", "glb", "obj", "stl", "PLY"])
def test_a_tetrahedron(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    write_mesh(path, POINTS, FACES, normals=POINTS, colours=COLOURS)
    mesh = trimesh.load(path, force="mesh", process=False)
    assert mesh.volume == pytest.approx(1)  # negative if the triangles were turned
    if suffix not in ("stl",):
        order = [int(np.abs(mesh.vertices - p).sum(1).argmin()) for p in POINTS]
        np.testing.assert_allclose(mesh.vertices[order], POINTS)
        np.testing.assert_array_equal(mesh.visual.vertex_colors[order, :3], COLOURS)
    if suffix.lower() == "ply":
        np.testing.assert_array_equal(read_cloud(path), POINTS)
        content = path.read_bytes()
        start = content.index(b"end_header\n") + len(b"end_header\n")
        kind = [("at", "<f4", 3), ("normal", "<f4", 3), ("colour", "u1", 3)]
        rows = np.frombuffer(content, kind, 4, start)
        np.testing.assert_array_equal(rows["normal"], POINTS)


def test_nothing_is_a_mesh_too(tmp_path):
    write_mesh(tmp_path / "a.ply", np.zeros((0, 3)), np.zeros((0, 3), int))
    assert len(read_cloud(tmp_path / "a.ply")) == 0


@pytest.mark.parametrize(
    ("points", "faces", "more", "message"),
    [
        (POINTS[:, :2], FACES, {}, r"points must be \[N, 3\] and faces \[F, 3\], got \[4, 2\]"),
        (POINTS, [[0, 1, 4]], {}, "faces must be indices of 4 points, got 0 to 4"),
        (POINTS, [[0, 1, -1]], {}, "got -1 to 1"),
        (POINTS, FACES, {"normals": POINTS[:3]}, "normals must be"),
        (POINTS, FACES, {"colours": POINTS}, "colours must be uint8"),
    ],
)
def test_other_arrays_are_refused(points, faces, more, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_mesh(tmp_path / "a.ply", points, faces, **more)
    assert not list(tmp_path.iterdir())


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a mesh ending in one of .ply, .glb, .obj, .stl"):
        write_mesh(tmp_path / "a.off", POINTS, FACES)
