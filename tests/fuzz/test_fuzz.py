"""Some hundred mutated files for every reader; CONTRIBUTING.md says how to try a million."""

import random

import numpy as np
import pytest

from flowmatch.io import read_cloud, read_flow

from .drive import find_fault, make_input, warm_up
from .mutate import mutate
from .readers import READERS

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
    from flowmatch.io import move_cloud_file

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
