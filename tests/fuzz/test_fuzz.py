"""Some hundred mutated files for every reader; CONTRIBUTING.md says how to try a million."""

import gzip
import random
import re
import struct
import tracemalloc
import warnings

import numpy as np
import pytest

from flowmatch.io import move_cloud_file, read_cloud, read_flow, read_frames
from flowmatch.matching.data.sequences import read_homography
from flowmatch.metric_learning.data.idx import read_idx

from .drive import find_fault, make_input, warm_up
from .mutate import mutate
from .readers import READERS
from .task_readers import read_list
from .task_seeds import video_seeds

INPUTS = 300


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_readers_raise_documented_errors_only(name, tmp_path):
    if name == "flo5":
        pytest.importorskip("h5py")
    reader = READERS[name]
    warm_up(reader, tmp_path)
    faults = {}
    for number in range(INPUTS):
        file, content = make_input(reader, seed=0, number=number)
        (tmp_path / file).write_bytes(content)
        if fault := find_fault(reader, tmp_path / file):
            faults[number] = fault
    assert not faults


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_seeds_are_read(name, tmp_path):
    """Most mutated files of a seed that cannot be read itself are refused for that reason."""
    if name == "flo5":
        pytest.importorskip("h5py")
    reader, refused = READERS[name], []
    for number, seed in enumerate(reader.seeds):
        (tmp_path / seed.name).write_bytes((seed.repair or bytes)(seed.content))
        try:
            reader.read(tmp_path / seed.name)
        except reader.errors as error:
            refused.append(f"{number}: {error}")
    # OpenCV's floats, a file without its network, and posed frames without pictures.
    assert len(refused) <= {"image": 5, "weights": 1}.get(name, 0), refused


def test_a_fault_is_found(tmp_path):
    reader = READERS["flow"]
    (tmp_path / "a.flo").write_bytes(b"")

    def fail(kind):
        def read(path):
            raise kind

        return find_fault(type(reader)("x", list, read), tmp_path / "a.flo")

    assert fail(ValueError(f"{tmp_path / 'a.flo'}: too short")) is None
    assert fail(KeyError("a")).startswith("KeyError at test_fuzz.py")
    assert "not one printable line" in fail(ValueError("a.flo\n"))
    assert "does not name the file" in fail(ValueError("too short"))
    assert "2000 characters" in fail(ValueError("a.flo" + "x" * 1995))
    other = type(reader)("x", list, lambda path: 1, compare=lambda path, result: "other bits")
    assert find_fault(other, tmp_path / "a.flo") == "silent difference: other bits"


def test_the_same_seed_gives_the_same_inputs():
    reader = READERS["ply"]
    assert make_input(reader, 3, 7) == make_input(reader, 3, 7)
    assert len({make_input(reader, 0, number)[1] for number in range(50)}) > 45
    assert mutate(random.Random(0), b"", [b""], []) is not None


# ---- faults that were found ----------------------------------------------------------------------


def test_empty_lists_of_vertices(tmp_path):
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 0\nproperty float x\n"
    header += "property float y\nproperty float z\nproperty list uchar int n\nend_header\n"
    (tmp_path / "a.ply").write_text(header)
    assert move_cloud_file(tmp_path / "a.ply", tmp_path / "b.ply", np.eye(4)) == ["n"]
    assert read_cloud(tmp_path / "b.ply").shape == (0, 3)


def test_signalling_nans(tmp_path):
    """A float64 that is a signalling NaN is unknown, without a warning of NumPy."""
    flow = np.zeros((1, 2, 2))
    flow.view(np.uint64)[0, 0, 0] = 0x7FF0000000000001
    np.savez(tmp_path / "a.npz", flow=flow)
    assert np.isnan(read_flow(tmp_path / "a.npz")).tolist() == [[[True, True], [False, False]]]


def test_long_lists_are_not_quoted_whole(tmp_path):
    header = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
    header += "property float z\nproperty list uchar int n\nend_header\n1 2 3 "
    for length in ("7" * 4000, "x" * 4000):
        (tmp_path / "a.ply").write_text(header + length)
        with pytest.raises(ValueError, match=r"a\.ply: expected numbers") as error:
            read_cloud(tmp_path / "a.ply")
        assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("rows", "content", "message"),
    [(99, b"", "expected 495 bytes for 99 rows of fa?ce"),
     (1, b"\x01\0\0\0\x09" + bytes(13), "the file ends in row 0 of fa?ce")],
)  # fmt: skip
def test_names_of_elements_that_cannot_be_printed(rows, content, message, tmp_path):
    text = "ply\nformat binary_little_endian 1.0\n"
    text += f"element fa\x7fce {rows}\nproperty int a\nproperty list uchar int b\n"
    text += "element vertex 1\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    (tmp_path / "a.ply").write_bytes(text.encode() + b"end_header\n" + content)
    with pytest.raises(ValueError, match=rf"a\.ply: {re.escape(message)}"):
        read_cloud(tmp_path / "a.ply")


def test_names_in_archives_that_are_not_utf8(tmp_path):
    for name, read in (("flow", read_flow), ("points", read_cloud)):
        np.savez(tmp_path / "a.npz", **{name: np.zeros((2, 3, 3))})
        content = bytearray((tmp_path / "a.npz").read_bytes())
        start = content.rindex(name.encode() + b".npy")  # of the directory at the end
        content[start] = 0xFF
        content[content.rindex(b"PK\1\2") + 9] |= 8  # the name is said to be UTF-8
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz: expected an \.npz file: 'utf-8'"):
            read(tmp_path / "a.npz")


def test_a_size_without_points(tmp_path):
    header = b"FIELDS x y z c\nSIZE 4 4 4 1\nTYPE F F F U\nCOUNT 1 1 1 2\nWIDTH 5\nHEIGHT 1\n"
    (tmp_path / "a.pcd").write_bytes(header + b"POINTS 0\nDATA binary\n")
    move_cloud_file(tmp_path / "a.pcd", tmp_path / "b.pcd", np.eye(4))
    assert b"COUNT 1 1 1 2\nWIDTH 0\nHEIGHT 1\n" in (tmp_path / "b.pcd").read_bytes()
    assert read_cloud(tmp_path / "b.pcd").shape == (0, 3)


def test_homographies_that_claim_memory(tmp_path):
    matrix = "<opencv_storage><H><rows>99999</rows><cols>99999</cols><dt>d</dt><data>1</data></H>"
    (tmp_path / "H1to2p.xml").write_text(f'<?xml version="1.0"?>{matrix}</opencv_storage>')
    with pytest.raises(ValueError, match=r"H1to2p\.xml: expected a homography of nine numbers"):
        read_homography(tmp_path / "H1to2p.xml")


@pytest.mark.parametrize("name", ["a-idx3-ubyte", "a.gz"])
def test_idx_files_that_claim_memory(tmp_path, name):
    content = b"\0\0\x08\x03" + struct.pack(">3I", 1000, 1000, 1000) + bytes(30)
    (tmp_path / name).write_bytes(gzip.compress(content) if name == "a.gz" else content)
    with pytest.raises(ValueError, match=rf"{name}: claims 1000000000 bytes"):
        read_idx(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [("images.txt", b"1 \xff.jpg\n"), ("Ebay_train.txt", b"a\n1 1 1 \xff.jpg\n"),
     ("verif_pos_split-a.csv", b"a\nv_a,0,0,v_a,1,\xff\n"),
     ("verif_pos_split-a.csv", b"a\nv_a,0,0,v_a,1," + b"9" * 30 + b"\n"),
     ("verif_pos_split-a.csv", b"a\n\x1b[31m,0,0,v_a,1,0\n"),
     ("verif_pos_split-a.csv", b"a\n" + b"1" * 200_000 + b"\n")],
)  # fmt: skip
def test_lists_of_other_text(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as error:
        read_list(tmp_path / name)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_videos_of_an_unknown_codec(tmp_path):
    content = next(seed.content for seed in video_seeds() if b"avc1\0" in seed.content)
    (tmp_path / "a.mp4").write_bytes(content.replace(b"avc1\0", b"zzzz\0"))
    with pytest.raises(ValueError, match=r"a\.mp4: FFmpeg has no decoder for its frames"):
        list(read_frames(tmp_path / "a.mp4"))


def test_numbers_of_poses_that_are_too_large(tmp_path):
    """Integers of more digits than Python converts, and products that overflow."""
    seeds = {seed.name: seed.content for seed in READERS["poses"].seeds}
    cases = {
        "rig.json": seeds["rig.json"].replace(b"640", b"7" * 5000),
        "intrinsics.txt": b"1e200 0 3 0 1e200 2 0 0 1",
        "H_1_2": b"1e200 0 3 0 1e200 2 0 0 1e200",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not find_fault(READERS["poses"], tmp_path / name), name


@pytest.mark.parametrize("version", [2, 3])
def test_long_headers_of_arrays(tmp_path, version):
    content = b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<I", 2**31) + b" " * 100
    (tmp_path / "a.npy").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.npy: damaged array header"):
        read_cloud(tmp_path / "a.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
