"""Mesh files as scans: points sampled from their triangles, and moved copies."""

import json
import logging
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.io._files import optional_module, reason_of, replace_when_done
from flowmatch.io.mesh import MESH_SUFFIXES, write_mesh

MESH_READERS = (".glb", ".obj", ".stl")
_SAMPLES = 100_000  # points of a mesh
_GLB_HEADER, _GLB_CHUNK = struct.Struct("<4sII"), struct.Struct("<II")
_JSON_CHUNK = 0x4E4F534A
_STL_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_STL_HEADER = 84
_NUMBERS = re.compile(rb"^(\s*(?:vertex|facet normal)\s+)(\S+\s+\S+\s+\S+)", re.MULTILINE)


class _Mesh(NamedTuple):
    """Triangles.

    Attributes:
        points: ``[N, 3]``.
        faces: ``[F, 3]``.
        colours: Colours of the points, uint8 ``[N, 3]``; None without.
        has_texture: Whether the file has textures.
    """

    points: NDArray[np.float64]
    faces: NDArray[np.int64]
    colours: NDArray[np.uint8] | None
    has_texture: bool


@np.errstate(over="ignore", invalid="ignore")  # of numbers that no scan has
def mesh_points(path: Path) -> NDArray[np.float64]:
    """Return 100 000 points that are evenly distributed over the triangles of a mesh.

    The same file gives the same points. A file without triangles gives its vertices.

    Raises:
        ValueError: The file is damaged.
        ImportError: trimesh is not installed.
    """
    mesh = _read_mesh(path)
    if len(mesh.faces) == 0:
        return mesh.points
    corners = mesh.points[mesh.faces]
    edges = corners[:, 1:] - corners[:, :1]
    areas = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    if not 0 < areas.sum() < np.inf:
        return mesh.points
    rng = np.random.default_rng(0)
    chosen = np.searchsorted(np.cumsum(areas) / areas.sum(), rng.random(_SAMPLES))
    chosen = np.minimum(chosen, len(areas) - 1)
    a, b = rng.random((2, _SAMPLES, 1))
    a, b = np.where(a + b > 1, 1 - a, a), np.where(a + b > 1, 1 - b, b)
    points: NDArray[np.float64] = corners[chosen, 0] + a * edges[chosen, 0] + b * edges[chosen, 1]
    return points


@np.errstate(over="ignore", invalid="ignore")
def move_mesh(source: Path, target: Path, motion: ArrayLike) -> list[str]:
    """Write a moved copy of a mesh; of the same kind with all else as it is.

    Returns:
        Names of what is not kept.

    Raises:
        ValueError: The source is damaged, or has no triangles.
        ImportError: trimesh is not installed.
    """
    matrix = np.asarray(motion, np.float64)
    suffix = target.suffix.lower()
    if source.suffix.lower() == suffix:
        content = _MOVERS[suffix](source, source.read_bytes(), matrix)
        with replace_when_done(target) as temporary:
            temporary.write_bytes(content)
        return []
    if source.suffix.lower() not in MESH_SUFFIXES:
        raise ValueError(f"{target}: {source} has no triangles")
    mesh = _read_mesh(source)
    if len(mesh.faces) == 0:
        raise ValueError(f"{target}: {source} has no triangles")
    points = mesh.points @ matrix[:3, :3].T + matrix[:3, 3]
    write_mesh(target, points, mesh.faces, colours=mesh.colours)
    lost = ["textures"] if mesh.has_texture else []
    return [*lost, "colours"] if suffix == ".stl" and mesh.colours is not None else lost


def _read_mesh(path: Path) -> _Mesh:
    trimesh = optional_module("trimesh", f"reading {path.suffix.lower()} files", "scans")
    points, faces, paints, textures = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], [], []
    if path.suffix.lower() == ".glb":
        _check_glb(path, path.read_bytes())
    try:
        with _no_log("trimesh"):
            scene = trimesh.load_scene(path, process=False, skip_materials=True)
        for node in scene.graph.nodes_geometry:
            matrix, name = scene.graph[node]
            part = scene.geometry[name]
            count = sum(map(len, points))
            points.append(np.asarray(part.vertices) @ matrix[:3, :3].T + matrix[:3, 3])
            faces.append(np.asarray(getattr(part, "faces", ()), np.int64).reshape(-1, 3) + count)
            kind = part.visual.kind if len(faces[-1]) else None
            paints.append(part.visual.vertex_colors if kind == "vertex" else None)
            textures.append(kind == "texture" and part.visual.uv is not None)
        vertices, triangles = np.concatenate(points), np.concatenate(faces)
        colours = None
        painted = [np.asarray(paint) for paint in paints if paint is not None]
        if painted and len(painted) == len(paints):
            colours = np.concatenate(painted)[:, :3].astype(np.uint8)
    except MemoryError:
        raise
    except Exception as error:  # trimesh raises errors of many kinds for damaged files
        raise ValueError(f"{path}: expected a mesh: {reason_of(error)}") from error
    if triangles.size and not (triangles.min() >= 0 and triangles.max() < len(vertices)):
        raise ValueError(f"{path}: faces must be indices of {len(vertices)} points")
    return _Mesh(vertices, triangles, colours, any(textures))


@contextmanager
def _no_log(name: str) -> Iterator[None]:
    """Keep a library from printing what it goes on after, with tracebacks."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_glb(path: Path, content: bytes) -> None:
    """Check that a .glb file claims no more than it holds: trimesh allocates what it claims."""
    at, document = _GLB_HEADER.size, None
    while at + _GLB_CHUNK.size <= len(content):
        length, kind = _GLB_CHUNK.unpack_from(content, at)
        start = at + _GLB_CHUNK.size
        at = start + length
        if at > len(content):
            raise ValueError(
                f"{path} is damaged, or not whole: a part of it claims {length} bytes, "
                f"the file ends {at - len(content)} bytes too early"
            )
        if document is None and kind == _JSON_CHUNK:
            document = content[start:at]
    try:
        accessors = json.loads(document or b"{}")["accessors"]
        counts = [entry["count"] for entry in accessors if "bufferView" not in entry]
        most = max((count for count in counts if isinstance(count, int)), default=0)
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # left to trimesh
    if most > len(content):
        raise ValueError(f"{path}: claims {most} zeros, more than its {len(content)} bytes")


def _rotation(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    rotation: NDArray[np.float64] = matrix[:3, :3] / np.cbrt(np.linalg.det(matrix[:3, :3]))
    return rotation


def _move_obj(path: Path, content: bytes, matrix: NDArray[np.float64]) -> bytes:
    """Move the lines of vertices and of their normals."""
    lines = content.splitlines(keepends=True)
    for start, linear, shift in (
        (b"v", matrix[:3, :3], matrix[:3, 3]),
        (b"vn", _rotation(matrix), np.zeros(3)),
    ):
        words = {k: w for k, line in enumerate(lines) if (w := line.split())[:1] == [start]}
        try:
            numbers = np.array([w[1:4] for w in words.values()], np.float64).reshape(-1, 3)
        except ValueError as error:
            raise ValueError(f"{path}: expected vertices: {reason_of(error)}") from error
        for (k, parts), moved in zip(words.items(), numbers @ linear.T + shift, strict=True):
            end = lines[k][len(lines[k].rstrip(b"\r\n")) :]
            lines[k] = b" ".join([start, _text(moved), *parts[4:]]) + end
    return b"".join(lines)


def _text(numbers: NDArray[np.float64]) -> bytes:
    return " ".join(repr(x).removesuffix(".0") for x in numbers.tolist()).encode()


def _move_stl(path: Path, content: bytes, matrix: NDArray[np.float64]) -> bytes:
    count = int.from_bytes(content[80:_STL_HEADER], "little")
    if len(content) == _STL_HEADER + count * _STL_FACET.itemsize:
        facets = np.frombuffer(content, _STL_FACET, count, _STL_HEADER).copy()
        corners = facets["corners"].astype(np.float64)
        facets["corners"] = corners @ matrix[:3, :3].T + matrix[:3, 3]
        facets["normal"] = facets["normal"].astype(np.float64) @ _rotation(matrix).T
        return content[:_STL_HEADER] + facets.tobytes()
    if not content.lstrip().startswith(b"solid"):
        raise ValueError(f"{path}: expected an STL file, got {len(content)} bytes of another kind")

    def moved(match: re.Match[bytes]) -> bytes:
        try:
            numbers = np.array(match[2].split(), np.float64)
        except ValueError as error:
            raise ValueError(f"{path}: expected numbers: {reason_of(error)}") from error
        if match[1].split()[0] == b"facet":
            return match[1] + _text(_rotation(matrix) @ numbers)
        return match[1] + _text(matrix[:3, :3] @ numbers + matrix[:3, 3])

    return _NUMBERS.sub(moved, content)


def _move_glb(path: Path, content: bytes, matrix: NDArray[np.float64]) -> bytes:
    """Put the nodes of each scene under a node with the motion."""
    try:
        magic, version, _ = _GLB_HEADER.unpack_from(content)
        length, kind = _GLB_CHUNK.unpack_from(content, _GLB_HEADER.size)
        start = _GLB_HEADER.size + _GLB_CHUNK.size
        if magic != b"glTF" or version != 2 or kind != _JSON_CHUNK:
            raise ValueError("expected glTF 2 with a JSON chunk first")
        document: dict[str, Any] = json.loads(content[start : start + length])
        nodes = document["nodes"]
        for scene in document["scenes"]:
            root = {"children": scene["nodes"], "matrix": matrix.T.ravel().tolist()}
            nodes.append(root)
            scene["nodes"] = [len(nodes) - 1]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: expected a .glb file: {reason_of(error)}") from error
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    rest = content[start + length :]
    header = _GLB_HEADER.pack(b"glTF", 2, start + len(text) + len(rest))
    return header + _GLB_CHUNK.pack(len(text), _JSON_CHUNK) + text + rest


_MOVERS = {".glb": _move_glb, ".obj": _move_obj, ".stl": _move_stl}
