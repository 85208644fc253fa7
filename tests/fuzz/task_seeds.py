"""Small files of the tasks: matches, lists, labels, networks of other projects, videos."""

import gzip
import io
import json
import struct
import tempfile
import zipfile
from pathlib import Path

import av
import numpy as np

from flowmatch.io.mesh import write_mesh
from flowmatch.matching import Keypoints, Matches
from flowmatch.matching.files import write_matches

from .seeds import Seed, as_npz


def match_seeds() -> list[Seed]:
    """Return files of matches, whole, and mutated inside of their archive."""
    points = np.arange(6, dtype=np.float32).reshape(3, 2)
    keypoints = Keypoints(points, *(np.ones(3, np.float32) for _ in range(3)))
    pairs = np.array([[0, 1], [2, 0]])
    matches = Matches(
        keypoints, keypoints, pairs, np.ones(2, np.float32), np.ones(2, bool), np.eye(3),
        "homography", np.ones(2, np.float32),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        write_matches(path, matches, "about")
        content = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}

    def with_entry(name: str) -> Seed:
        return Seed("a.npz", entries[name], lambda data: as_npz({**entries, name: data}))

    return [Seed("a.npz", content), *map(with_entry, ("matches.npy", "matrix.npy", "about.npy"))]


def list_seeds() -> list[Seed]:
    """Return pairs, ground truth, numbered labels, marks of a split, and gzipped IDX files."""
    gnd = [{"easy": [1], "hard": [], "junk": [0], "bbx": [0, 0, 9.5, 9]}]
    revisited = {"imlist": ["a", "b"], "qimlist": ["q"], "gnd": gnd}
    first = {"imlist": ["a"], "qimlist": ["q"], "gnd": [{"ok": [0], "junk": []}]}
    pictures = b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 4) + bytes(24)
    cub = "1 001.Black_footed_Albatross/a b.jpg\n2 001.x/b.jpg\n"
    tasks = "s1,t1,i1,s2,t2,i2\nv_a,0,0,v_a,1,0\n"
    return [
        Seed("pairs.txt", b"# a list\na.jpg b.jpg\nc d.png\te.png\n\n\xc3\xa4 \xe5\x9b\xbe\r\n"),
        Seed("gnd.json", json.dumps(revisited).encode()),
        Seed("gnd.json", json.dumps(first).encode()),
        Seed("images.txt", cub.encode()),
        Seed("Ebay_train.txt", b"image_id class_id super path\n1 1 1 a/b.jpg\n2 2 1 c.jpg\n"),
        Seed("verif_pos_split-a.csv", tasks.encode()),
        Seed("info.txt", b"0 0\n1 0\n"),
        Seed("train-images-idx3-ubyte", pictures),
        Seed("train-labels.gz", b"\0\0\x0c\x01" + struct.pack(">I2i", 2, -1, 7), gzip.compress),
        Seed("report.json", json.dumps({"rows": []}).encode()),
        Seed("config.json", b'{"task": "flow", "model": "pyramid"}'),
    ]


def lua_seeds() -> list[Seed]:
    """Return networks of Torch7, and layers as cvpr15deepcompare stores them."""

    def text(value: bytes) -> bytes:
        return struct.pack("<i", len(value)) + value

    storage = struct.pack("<ii", 4, 3) + text(b"V 1") + text(b"torch.FloatStorage")
    storage += struct.pack("<q4f", 4, 1, 2, 3, 4)
    tensor = struct.pack("<ii", 4, 2) + text(b"V 1") + text(b"torch.FloatTensor")
    tensor += struct.pack("<i2q2qq", 2, 2, 2, 2, 1, 1) + storage
    number, name = struct.pack("<id", 1, 2.5), struct.pack("<i", 2) + text(b"weight")
    truth = struct.pack("<ii", 5, 1)
    table = struct.pack("<iii", 3, 1, 3) + name + tensor + number + truth + number + tensor
    layer = struct.pack("<ii", 4, 9) + text(b"V 1") + text(b"nn.Linear") + table
    layers = b"".join(struct.pack("<iii3f", k, 2, 1, 1, 2, 3) for k in range(4))
    return [
        Seed("a.t7", layer), Seed("a.t7", table), Seed("a.t7", tensor),
        Seed("a.bin", text(b"2ch") + layers),
    ]  # fmt: skip


def mesh_seeds() -> list[Seed]:
    """Return meshes with and without colours, as text and as bytes."""
    points, faces = np.eye(4, 3), np.array([[0, 1, 2], [0, 1, 3]])
    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".glb", ".obj", ".stl"):
            for colours in (None, np.arange(12, dtype=np.uint8).reshape(4, 3)):
                path = Path(folder) / f"a{suffix}"
                write_mesh(path, points, faces, colours=colours if suffix != ".stl" else None)
                seeds.append(Seed(path.name, path.read_bytes()))
    text = b"solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\n"
    return [*seeds, Seed("a.stl", text + b"endloop\nendfacet\nendsolid a\n")]


def track_seeds() -> list[Seed]:
    """Return points, and boxes as MOTChallenge has them."""
    return [
        Seed("points.txt", b"# x, y\n10, 20.5\n30, 4\n"),
        Seed("points.txt", b"10 20.5\n30 4 # corner\n"),
        Seed("gt.txt", b"1,1,11,21,30,40,1,-1,-1,-1\n3,2,5.5,6,7,8,1,-1,-1,-1\n"),
    ]


def video_seeds() -> list[Seed]:
    """Return videos of four frames in the containers and codecs that are met most often."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 16, 32, 3), dtype=np.uint8)
    seeds = []
    for suffix, codec, layout in (
        ("mp4", "mpeg4", "yuv420p"), ("mp4", "libx264", "yuv420p"), ("mkv", "ffv1", "yuv444p"),
        ("avi", "mjpeg", "yuvj420p"), ("gif", "gif", "rgb8"), ("webm", "libvpx", "yuv420p"),
        ("mov", "png", "rgb24"),
    ):  # fmt: skip
        file = io.BytesIO()
        with av.open(file, "w", format={"mkv": "matroska"}.get(suffix, suffix)) as container:
            stream = container.add_stream(codec, rate=5)
            stream.width, stream.height, stream.pix_fmt = 32, 16, layout
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())
        seeds.append(Seed(f"a.{suffix}", file.getvalue()))
    return seeds
