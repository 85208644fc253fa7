"""Flow files: round trips, golden bytes, and errors."""

import io
import re
import struct
import sys
import tracemalloc
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowmatch._opencv import cv2
from flowmatch.io import read_flow, write_flow
from flowmatch.io.flow import storable

SUFFIXES = [".flo", ".png", ".pfm", ".npz", ".flo5"]
NAN = np.float32(np.nan)


def flow_arrays(limit):
    values = st.one_of(
        st.floats(-limit, limit, width=32),
        st.sampled_from([0.0, -0.0, 1e-30, float(limit), -float(limit), np.nan, np.inf, -np.inf]),
    )
    sizes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(2))
    return hnp.arrays(np.float32, sizes, elements=values)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(suffix, tmp_path):
    limit = 511 if suffix == ".png" else 2.0**29
    path = tmp_path / f"flow{suffix}"

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(flow=flow_arrays(limit))
    def check(flow):
        write_flow(path, flow)
        back = read_flow(path)
        valid = np.isfinite(flow).all(axis=2)
        assert back.dtype == np.float32
        assert back.shape == flow.shape
        assert np.isnan(back[~valid]).all()
        tolerance = 1 / 128 if suffix == ".png" else 0
        np.testing.assert_allclose(back[valid], flow[valid], rtol=0, atol=tolerance)

    check()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_and_strides(suffix, dtype, tmp_path):
    flow = np.arange(48, dtype=dtype).reshape(2, 6, 4)[::-1, ::2, 1:3]
    write_flow(tmp_path / f"f{suffix}", flow)
    np.testing.assert_array_equal(read_flow(str(tmp_path / f"f{suffix}")), flow)


@pytest.mark.parametrize("suffix", [".FLO", ".NPZ", ".Npz", ".PNG", ".PFM"])
def test_unicode_path_and_capital_suffix(suffix, tmp_path):
    path = tmp_path / f"стрела 流 é{suffix}"
    write_flow(path, np.ones((2, 3, 2)))
    assert read_flow(path).shape == (2, 3, 2)
    assert list(tmp_path.iterdir()) == [path]


# ---- golden bytes --------------------------------------------------------------------------------

FLO = b"PIEH" + struct.pack("<ii4f", 2, 1, 1.5, -2.25, 1e10, 1e10)
PFM = b"PF\n2 1\n-1\n" + struct.pack("<6f", 1.5, -2.25, 0, NAN, NAN, 0)
GOLDEN = np.array([[(1.5, -2.25), (NAN, NAN)]], np.float32)


@pytest.mark.parametrize(("suffix", "content"), [(".flo", FLO), (".pfm", PFM)])
def test_golden_bytes(suffix, content, tmp_path):
    path = tmp_path / f"golden{suffix}"
    write_flow(path, GOLDEN)
    assert path.read_bytes() == content
    np.testing.assert_array_equal(read_flow(path), GOLDEN)


def test_pfm_is_bottom_up_and_either_endian(tmp_path):
    path = tmp_path / "big.pfm"
    path.write_bytes(b"PF 1 2 1.0\n" + struct.pack(">6f", 5, 6, 0, 1, 2, 0))
    np.testing.assert_array_equal(read_flow(path), [[(1, 2)], [(5, 6)]])


def test_kitti_png_pixels(tmp_path):
    path = tmp_path / "kitti.png"
    flow = np.array([[(0, 0), (-512, 511.984375), (1 / 64, -3), (NAN, 5)]], np.float32)
    write_flow(path, flow)
    rgb = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert rgb.dtype == np.uint16
    # Valid rest is (2^15, 2^15, 1); invalid is (0, 0, 0), as the development kit writes it.
    expected = [(32768, 32768, 1), (0, 65535, 1), (32769, 32576, 1), (0, 0, 0)]
    np.testing.assert_array_equal(rgb[0], expected)
    flow[0, 3] = NAN
    np.testing.assert_array_equal(read_flow(path), flow)


@pytest.mark.parametrize("value", [-512.0, 511.95, 511.984375, 511.992, -512.01, 511.9922, 600.0])
def test_storable_is_what_kitti_files_hold(value, tmp_path):
    flow = np.full((1, 1, 2), (value, 0), np.float32)
    assert storable("flow.png", flow)[0, 0] == (-512 <= value < 511.9921875)
    if storable("flow.png", flow).all():
        write_flow(tmp_path / "flow.png", flow)
        assert abs(read_flow(tmp_path / "flow.png") - flow).max() <= 1 / 128
    else:
        with pytest.raises(ValueError, match="holds flow from -512"):
            write_flow(tmp_path / "flow.png", flow)


@pytest.mark.parametrize("suffix", [".flo", ".npz", ".pfm"])
def test_storable_in_other_formats_means_known(suffix):
    flow = np.array([[(0, 1e9), (0, 1.1e9), (NAN, 0), (0, -np.inf)]], np.float32)
    assert storable(f"flow{suffix}", flow).tolist() == [[True, False, False, False]]


def test_flo_unknown_by_either_component(tmp_path):
    path = tmp_path / "unknown.flo"
    values = struct.pack("<8f", 1e9, 0, 1.1e9, 0, 0, -1.7e9, np.inf, 1)
    path.write_bytes(b"PIEH" + struct.pack("<ii", 4, 1) + values)
    flow = read_flow(path)
    np.testing.assert_array_equal(
        np.isnan(flow[0]), [[False] * 2, [True] * 2, [True] * 2, [True] * 2]
    )


def test_npz_valid(tmp_path):
    path = tmp_path / "masked.npz"
    np.savez(path, flow=np.ones((1, 2, 2), ">f8", order="F"), valid=np.array([[True, False]]))
    np.testing.assert_array_equal(read_flow(path), [[(1, 1), (NAN, NAN)]])


def test_flo5_as_in_spring(tmp_path):
    path = tmp_path / "spring.flo5"
    write_flow(path, GOLDEN)
    with h5py.File(path) as file:
        assert file["flow"].dtype == np.float32
        assert file["flow"].compression == "gzip"
        np.testing.assert_array_equal(file["flow"][:], GOLDEN)


# ---- errors ---------------------------------------------------------------------------


def png(width, height, bits=16, colour=2, rows=1):
    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(rows * (6 * min(width, 1000) + 1)))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def npy(array):
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asarray(array), allow_pickle=True)
    return content.getvalue()


def npy_header(shape, descr="<f4"):
    content = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, fields)
    return content.getvalue()


def npz(entries, method=zipfile.ZIP_DEFLATED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, member in entries.items():
            archive.writestr(f"{name}.npy", member)
    return content.getvalue()


def lying_npz():
    # The directory and the array header agree on 8 GB; the stream holds nothing of it.
    header = npy_header((1000, 1000000, 2))
    content = bytearray(npz({"flow": header}, zipfile.ZIP_STORED))
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", 2**32 - 2)
    return bytes(content)


def corrupt_npz():
    content = bytearray(npz({"flow": npy(np.random.default_rng(0).random((9, 9, 2)))}))
    content[300] ^= 255
    return bytes(content)


REFUSED = {
    "flo magic": (".flo", b"HEIP" + FLO[4:], "PIEH"),
    "flo header": (".flo", FLO[:11], "PIEH"),
    "flo truncated": (".flo", FLO[:-1], "expected 28 bytes for 2 x 1 pixels, got 27"),
    "flo oversized": (".flo", FLO + b"\0", "expected 28 bytes for 2 x 1 pixels, got 29"),
    "flo liar": (".flo", b"PIEH" + struct.pack("<iif", 40000, 25000, 0), "8000000012 bytes"),
    "flo zero": (".flo", b"PIEH" + struct.pack("<ii", 0, 5), "at least 1 x 1 pixels, got 0 x 5"),
    "flo negative": (".flo", b"PIEH" + struct.pack("<ii", -2, -1), "at least 1 x 1"),
    "flo empty": (".flo", b"", "PIEH"),
    "png magic": (".png", FLO + bytes(40), "expected a PNG"),
    "png liar": (".png", png(40000, 25000), "compressed bytes"),
    "png short": (".png", png(20, 30, rows=10), "cannot be decoded"),
    "png truncated": (".png", png(1, 1)[:-20], "the file ends 8 bytes too early"),
    "png zero": (".png", png(0, 1), "at least 1 x 1"),
    "png 8 bits": (".png", png(1, 1, bits=8), "got 8 bits"),
    "png gray": (".png", png(1, 1, colour=0), "colour type 0"),
    "pfm gray": (".pfm", b"Pf\n1 1\n-1\n" + bytes(4), "three channels"),
    "pfm magic": (".pfm", b"P6\n1 1\n255\n" + bytes(3), "three channels"),
    "pfm truncated": (".pfm", PFM[:-1], "expected 34 bytes for 2 x 1 pixels, got 33"),
    "pfm oversized": (".pfm", PFM + b"\0", "got 35"),
    "pfm liar": (".pfm", b"PF\n99999999 99999999\n-1\n", "bytes"),
    "pfm negative": (".pfm", b"PF\n-1 -1\n-1\n" + bytes(12), "at least 1 x 1"),
    "pfm scale": (".pfm", b"PF\n1 1\n0\n" + bytes(12), "byte order"),
    "pfm no number": (".pfm", b"PF\n1 1\n-e-\n" + bytes(12), "byte order"),
    "npz no zip": (".npz", FLO, "expected an .npz file"),
    "npz truncated": (".npz", npz({"flow": npy(np.ones((4, 4, 2)))})[:-30], "expected an .npz"),
    "npz corrupt": (".npz", corrupt_npz(), "expected an .npz"),
    "npz name": (".npz", npz({"field": npy(np.ones((1, 1, 2)))}), "field.npy"),
    "npz pickle": (".npz", npz({"flow": npy([{"a": 1}])}), "got object"),
    "npz integers": (".npz", npz({"flow": npy(np.ones((1, 1, 2), int))}), "got int64"),
    "npz shape": (".npz", npz({"flow": npy(np.ones((2, 1, 1)))}), "[any, any, 2]"),
    "npz zero": (".npz", npz({"flow": npy(np.ones((0, 1, 2)))}), "[0, 1, 2]"),
    "npz negative": (".npz", npz({"flow": npy_header((-1, -8, 2))}), "[-1, -8, 2]"),
    "npz liar": (".npz", npz({"flow": npy_header((9, 10**9, 2))}), "claims 72000000000 bytes"),
    "npz directory": (".npz", lying_npz(), "compressed bytes"),
    "npz oversized": (".npz", npz({"flow": npy(np.ones((1, 1, 2))) + b"\0"}), "claims 16 bytes"),
    "npz header": (".npz", npz({"flow": b"\x93NUMPY\x01\0\x04\0)}{("}), "damaged array header"),
    "npz valid": (
        ".npz",
        npz({"flow": npy(np.ones((1, 2, 2))), "valid": npy(np.ones((2, 1), bool))}),
        "valid.npy must be bool [1, 2]",
    ),
    "npz bomb": (".npz", npz({"flow": bytes(20_000_000)}), "damaged array header"),
    "flo5 no hdf5": (".flo5", FLO, "expected an HDF5 file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_damaged_files_are_errors(name, tmp_path):
    suffix, content, message = REFUSED[name]
    path = tmp_path / f"stranger{suffix}"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"stranger.*{re.escape(message)}"):
            read_flow(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


def hdf5(path, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("flow", **options)


HDF5_REFUSED = {
    "name": (lambda path: h5py.File(path, "w").close(), "dataset 'flow', got []"),
    "integers": (lambda path: hdf5(path, data=np.ones((1, 1, 2), int)), "floats [H, W, 2]"),
    "shape": (lambda path: hdf5(path, data=np.ones((2, 1, 1))), "floats [H, W, 2]"),
    "zero": (lambda path: hdf5(path, shape=(0, 1, 2), dtype="f4"), "at least 1 x 1"),
    "unstored": (lambda path: hdf5(path, shape=(10**5, 10**4, 2), dtype="f4"), "compressed bytes"),
    "sparse": (
        lambda path: hdf5(
            path, shape=(10**5, 10**4, 2), dtype="f4", chunks=(9, 9, 2), compression="gzip"
        ),
        "compressed bytes",
    ),
    "filter": (lambda path: hdf5(path, data=np.ones((9, 9, 2)), compression="lzf"), "gzip"),
    "external": (
        lambda path: hdf5(path, shape=(1, 1, 2), dtype="f4", external=[("/etc/passwd", 0, 8)]),
        "got a reference",
    ),
}


@pytest.mark.parametrize("name", HDF5_REFUSED)
def test_damaged_hdf5_is_an_error(name, tmp_path):
    make, message = HDF5_REFUSED[name]
    path = tmp_path / "stranger.flo5"
    make(path)
    with pytest.raises(ValueError, match=f"stranger.*{re.escape(message)}"):
        read_flow(path)


def test_hdf5_links_and_truncation_are_errors(tmp_path):
    write_flow(tmp_path / "target.flo5", GOLDEN)
    with h5py.File(tmp_path / "link.flo5", "w") as file:
        file["flow"] = h5py.ExternalLink("target.flo5", "flow")
    with pytest.raises(ValueError, match="link.flo5"):
        read_flow(tmp_path / "link.flo5")
    content = (tmp_path / "target.flo5").read_bytes()
    (tmp_path / "target.flo5").write_bytes(content[:-9])
    with pytest.raises(ValueError, match="target.flo5"):
        read_flow(tmp_path / "target.flo5")


def test_missing_folder_and_suffix(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.flo"):
        read_flow(tmp_path / "none.flo")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_flow(tmp_path)
    (tmp_path / "flow.txt").write_text("")
    with pytest.raises(ValueError, match=r"\.flo, \.png, \.pfm, \.npz, \.flo5, got '\.txt'"):
        read_flow(tmp_path / "flow.txt")
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_flow(tmp_path / "none" / "a.flo", GOLDEN)


@pytest.mark.parametrize(
    "flow",
    [np.ones((2, 2)), np.ones((2, 2, 3)), np.ones((0, 2, 2)), np.ones((2, 2, 2), int), [["a"]]],
    ids=lambda flow: str(np.shape(flow)),
)
def test_wrong_shapes_and_types_are_errors(flow, tmp_path):
    with pytest.raises(ValueError, match=r"must be floats \[H, W, 2\]"):
        write_flow(tmp_path / "a.flo", flow)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("suffix", "value"), [(".png", 512), (".png", -512.1), (".flo", 2e9), (".npz", 1e300)]
)
def test_values_beyond_the_format_are_errors(suffix, value, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=r"a\.\w+: .* px"):
        write_flow(path, np.array([[(value, np.nan), (0, value)]]))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_without_h5py(tmp_path, monkeypatch):
    write_flow(tmp_path / "a.flo5", GOLDEN)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        read_flow(tmp_path / "a.flo5")
    with pytest.raises(ImportError, match="pip install h5py"):
        write_flow(tmp_path / "b.flo5", GOLDEN)
    assert not (tmp_path / "b.flo5").exists()


@pytest.mark.parametrize("count", [1, 7, 10_000])
def test_flo_is_converted_in_parts(tmp_path, monkeypatch, count):
    flow = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    flow[1, 2] = np.nan
    monkeypatch.setattr("flowmatch.io.flow._AT_ONCE", count)
    write_flow(tmp_path / "a.flo", flow)
    expected = b"PIEH" + struct.pack("<ii", 3, 5) + np.nan_to_num(flow, nan=1e10).tobytes()
    assert (tmp_path / "a.flo").read_bytes() == expected
    assert np.isnan(flow[1, 2]).all(), "the argument is left as it was"
