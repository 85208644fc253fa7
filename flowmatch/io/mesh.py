"""Triangle meshes: .ply, and .glb, .obj and .stl by trimesh."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.io._files import (
    FilePath,
    entry_for_suffix,
    optional_module,
    replace_when_done,
    write_array,
)

_BY_TRIMESH = (".glb", ".obj", ".stl")
MESH_SUFFIXES = (".ply", *_BY_TRIMESH)


def write_mesh(
    path: FilePath,
    points: ArrayLike,
    faces: ArrayLike,
    *,
    normals: ArrayLike | None = None,
    colours: ArrayLike | None = None,
) -> None:
    """Write a triangle mesh; the suffix determines the format: .ply, .glb, .obj or .stl.

    Args:
        path: File to write; its folder must exist. It gets its name only when complete.
        points: Vertices ``[N, 3]``, metres. Written as float32, but from a kilometre on as float64
            (.ply, .obj) or relative to a node (.glb); .stl has float32 only.
        faces: Indices of vertices ``[F, 3]``.
        normals: Normals of the vertices ``[N, 3]``; .stl has none.
        colours: Colours of the vertices, uint8 ``[N, 3]``, RGB; .stl has none.

    Raises:
        ValueError: Wrong shapes, an index that is not a vertex, or an unknown suffix.
        FileNotFoundError: The folder does not exist.
        ImportError: trimesh is not installed; ``.ply`` does not need it.

    Example:
        >>> import tempfile
        >>> write_mesh(Path(tempfile.mkdtemp()) / "triangle.ply", np.eye(3), [[0, 1, 2]])
    """
    path = Path(path)
    entry_for_suffix(path, dict.fromkeys(MESH_SUFFIXES), "mesh")
    vertices, triangles = np.asarray(points, np.float64), np.asarray(faces, np.int64)
    if (
        vertices.ndim != 2
        or vertices.shape[1] != 3
        or triangles.ndim != 2
        or triangles.shape[1] != 3
    ):
        raise ValueError(
            f"{path}: points must be [N, 3] and faces [F, 3], "
            f"got {list(vertices.shape)} and {list(triangles.shape)}"
        )
    if triangles.size and not (triangles.min() >= 0 and triangles.max() < len(vertices)):
        raise ValueError(
            f"{path}: faces must be indices of {len(vertices)} points, "
            f"got {triangles.min()} to {triangles.max()}"
        )
    directions = None if normals is None else np.asarray(normals, np.float32)
    rgb = None if colours is None else np.asarray(colours)
    if directions is not None and directions.shape != vertices.shape:
        raise ValueError(
            f"{path}: normals must be {list(vertices.shape)}, got {list(directions.shape)}"
        )
    if rgb is not None and (rgb.dtype != np.uint8 or rgb.shape != vertices.shape):
        raise ValueError(
            f"{path}: colours must be uint8 {list(vertices.shape)}, "
            f"got {rgb.dtype} {list(rgb.shape)}"
        )
    with replace_when_done(path) as temporary:
        if path.suffix.lower() == ".ply":
            _write_ply(temporary, vertices, triangles, directions, rgb)
        else:
            kind = path.suffix.lower()[1:]
            _write_by_trimesh(temporary, kind, vertices, triangles, directions, rgb)


def _is_far(points: NDArray[np.float64]) -> bool:
    """Return whether float32 is coarser than a tenth of a millimetre."""
    return bool(len(points)) and float(np.abs(points).max()) >= 1000


def require_trimesh() -> None:
    """Raise an ImportError that names the extra if trimesh is not installed."""
    optional_module("trimesh", "a mesh other than .ply", "scans")


def _write_ply(
    temporary: Path,
    points: NDArray[np.float64],
    faces: NDArray[np.int64],
    normals: NDArray[np.float32] | None,
    colours: NDArray[np.uint8] | None,
) -> None:
    parts: list[tuple[NDArray[Any], tuple[str, ...], str, str]]
    kind = ("<f8", "double") if _is_far(points) else ("<f4", "float")
    parts = [(points, ("x", "y", "z"), *kind)]
    if normals is not None:
        parts.append((normals, ("nx", "ny", "nz"), "<f4", "float"))
    if colours is not None:
        parts.append((colours, ("red", "green", "blue"), "u1", "uchar"))
    fields = [(name, kind) for _, names, kind, _ in parts for name in names]
    rows = np.zeros(len(points), fields)
    for values, names, *_ in parts:
        for k, name in enumerate(names):
            rows[name] = values[:, k]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property {word} {name}" for _, names, _, word in parts for name in names]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    triangles = np.zeros(len(faces), [("count", "u1"), ("index", "<i4", 3)])
    triangles["count"], triangles["index"] = 3, faces
    with temporary.open("wb") as file:
        file.write("\n".join([*header, "end_header", ""]).encode())
        write_array(file, rows)
        write_array(file, triangles)


def _write_by_trimesh(
    temporary: Path,
    kind: str,
    points: NDArray[np.float64],
    faces: NDArray[np.int64],
    normals: NDArray[np.float32] | None,
    colours: NDArray[np.uint8] | None,
) -> None:
    trimesh = optional_module("trimesh", f"writing .{kind} files", "scans")
    shift = np.eye(4)
    if kind == "glb" and _is_far(points):  # its buffers are float32, the matrices of nodes are not
        shift[:3, 3] = points.mean(0).round()
    mesh = trimesh.Trimesh(
        points - shift[:3, 3], faces, vertex_normals=normals, vertex_colors=colours, process=False
    )
    if kind == "glb":
        scene = trimesh.Scene()
        scene.add_geometry(mesh, transform=shift)
        content = scene.export(file_type=kind)
    else:
        content = mesh.export(file_type=kind)
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
