"""Files built from the grammars of their formats, read by flowmatch and by independent readers.

``EXAMPLES=10000 pytest tests/fuzz/test_grammar.py`` tries more.
"""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from plyfile import PlyData

from flowmatch.io import move_cloud_file, read_cloud, read_flow, read_image, read_intrinsics

from .seeds import as_npz

tried = settings(
    max_examples=int(os.environ.get("EXAMPLES", "40")), deadline=None,
    derandomize="EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
FLOATS = st.floats(-1e6, 1e6, width=32)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=6).map("p{}".format)


def write(folder: Path, name: str, content: bytes) -> Path:
    """Write a file; each example replaces the one before."""
    path = folder / name
    path.write_bytes(content)
    return path


# ---- PLY ----------------------------------------------------------------------------------------

PLY_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
COUNTS = [name for name, kind in PLY_TYPES.items() if kind[0] == "u"]


def numbers(kind: str):
    """Return a strategy for numbers of a type."""
    if kind[0] == "f":
        return FLOATS if kind == "f4" else st.floats(-1e9, 1e9)
    information = np.iinfo(kind)
    return st.integers(int(information.min), int(information.max))


@st.composite
def properties(draw, xyz: bool):
    """Return name, type and type of the length (None: no list) of the properties of an element."""
    names = draw(st.lists(NAMES, max_size=4, unique=True))
    chosen = [
        (name, draw(st.sampled_from(list(PLY_TYPES))),
         draw(st.none() | st.sampled_from(COUNTS))) for name in names
    ]  # fmt: skip
    if xyz:
        kind = draw(st.sampled_from(["float", "double", "float32", "float64"]))
        chosen = draw(st.permutations([*chosen, *((axis, kind, None) for axis in "xyz")]))
    elif not chosen:
        chosen = [("a", "int", None)]
    return chosen


@st.composite
def ply_files(draw):
    """Return the bytes of a PLY file."""
    order, word = draw(
        st.sampled_from([("", "ascii"), ("<", "binary_little_endian"), (">", "binary_big_endian")])
    )
    end = draw(st.sampled_from(["\n", "\r\n"]))
    elements = [("vertex", draw(properties(xyz=True)))]
    for name in draw(st.lists(st.sampled_from(["face", "edge", "material"]), unique=True)):
        elements.insert(draw(st.integers(0, len(elements))), (name, draw(properties(xyz=False))))
    lines, body = ["ply", f"format {word} 1.0"], b""
    lines += draw(st.sampled_from([[], ["obj_info 3"]]))  # plyfile refuses it after an element
    remarks = st.sampled_from([[], ["comment a b"], ["comment"]])
    for name, chosen in elements:
        count = draw(st.integers(0, 4))
        lines += [*draw(remarks), f"element {name} {count}"]
        for key, kind, length in chosen:
            lines.append(f"property {f'list {length} {kind}' if length else kind} {key}")
        for _ in range(count):
            words = []
            for _, kind, length in chosen:
                values = draw(
                    st.lists(numbers(PLY_TYPES[kind]), max_size=3)
                    if length
                    else numbers(PLY_TYPES[kind]).map(lambda value: [value])
                )
                if length:
                    words.append((PLY_TYPES[length], len(values)))
                words += [(PLY_TYPES[kind], value) for value in values]
            if order:
                body += b"".join(np.array(v, order + k).tobytes() for k, v in words)
            else:
                body += (" ".join(repr(value) for _, value in words) + end).encode()
    return end.join([*lines, "end_header", ""]).encode() + body


def same_columns(ours, theirs, dropped=()) -> bool:
    """Return whether two elements of plyfile hold the same properties, but for dropped ones."""
    names = [prop.name for prop in ours.properties]
    return names == [prop.name for prop in theirs.properties if prop.name not in dropped] and all(
        len(a) == len(b)
        and all(np.allclose(x, y, 1e-6, 0, equal_nan=True) for x, y in zip(a, b, strict=True))
        for a, b in ((ours[name], theirs[name]) for name in names)
    )


@pytest.mark.filterwarnings("ignore:loadtxt. input contained no data")  # plyfile, empty lists
@tried
@given(ply_files())
def test_ply(tmp_path, content):
    path = write(tmp_path, "a.ply", content)
    whole = PlyData.read(path)
    expected = np.stack([np.float64(whole["vertex"][axis]) for axis in "xyz"], axis=1)
    points = read_cloud(path)
    # plyfile rounds numbers of text to their type.
    np.testing.assert_allclose(points, expected, 1e-6, 1e-30)
    dropped = move_cloud_file(path, tmp_path / "b.ply", np.eye(4))
    moved = PlyData.read(tmp_path / "b.ply")
    assert [e.name for e in moved] == [e.name for e in whole]
    for ours, theirs in zip(moved, whole, strict=True):
        assert same_columns(ours, theirs, dropped if ours.name == "vertex" else ())


# ---- PCD ----------------------------------------------------------------------------------------


@st.composite
def pcd_files(draw):
    """Return the bytes of a PCD file, and its points."""
    kind = draw(st.sampled_from(["f4", "f8"]))
    fields = [(axis, kind, 1) for axis in "xyz"]
    kinds = st.sampled_from(["u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8"])
    for name in draw(st.lists(NAMES | st.just("_"), max_size=3, unique=True)):
        fields.append((name, draw(kinds), draw(st.integers(1, 3))))
    fields = draw(st.permutations(fields))
    width, height = draw(st.tuples(st.integers(0, 3), st.integers(1, 2)))
    layout = np.dtype([(str(k), "<" + t, (n,)) for k, (_, t, n) in enumerate(fields)])
    table = np.zeros(width * height, layout)
    for k, (_, t, n) in enumerate(fields):
        table[str(k)] = draw(hnp.arrays(t, (len(table), n), elements=numbers(t)))
    text = draw(st.booleans())
    head = [
        "# .PCD v0.7", "VERSION 0.7", "FIELDS " + " ".join(name for name, _, _ in fields),
        "SIZE " + " ".join(t[1] for _, t, _ in fields),
        "TYPE " + " ".join(t[0].upper() for _, t, _ in fields),
        "COUNT " + " ".join(str(n) for _, _, n in fields),
        f"WIDTH {width}", f"HEIGHT {height}", "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(table)}", f"DATA {'ascii' if text else 'binary'}", "",
    ]  # fmt: skip
    end = draw(st.sampled_from(["\n", "\r\n"])) if text else "\n"
    body = table.tobytes()
    if text:
        rows = ([repr(v) for part in row for v in part.tolist()] for row in table.tolist())
        body = "".join(" ".join(row) + end for row in rows).encode()
    places = [str([name for name, _, _ in fields].index(axis)) for axis in "xyz"]
    points = np.concatenate([table[place] for place in places], axis=1).astype(np.float64)
    return end.join(head).encode() + body, points


@tried
@given(pcd_files())
def test_pcd(tmp_path, file):
    content, points = file
    path = write(tmp_path, "a.pcd", content)
    np.testing.assert_allclose(read_cloud(path), points, 1e-12)
    move_cloud_file(path, tmp_path / "b.pcd", np.eye(4))
    np.testing.assert_allclose(read_cloud(tmp_path / "b.pcd"), points, 1e-6)


# ---- pictures -----------------------------------------------------------------------------------

SPACES = st.sampled_from([" ", "\n", "\t ", " # a comment\n", "\r\n"])


@st.composite
def pnm_files(draw):
    """Return the bytes of a PGM or PPM file, its values and the value of white."""
    white = draw(st.integers(1, 255) | st.integers(256, 65535))
    channels, text = draw(st.sampled_from([1, 3])), draw(st.booleans())
    shape = (*draw(st.tuples(st.integers(1, 4), st.integers(1, 4))), channels)
    values = draw(hnp.arrays(np.uint16, shape, elements=st.integers(0, white)))
    kind = f"P{(3 if channels == 3 else 2) + (0 if text else 3)}"
    parts = [kind, str(shape[1]), str(shape[0]), str(white)]
    head = "".join(part + draw(SPACES) for part in parts[:-1]) + parts[-1] + "\n"
    if text:
        body = "".join(str(value) + draw(SPACES) for value in values.ravel().tolist()).encode()
    else:
        body = values.astype(">u2" if white > 255 else "u1").tobytes()
    return head.encode() + body, values, white


@tried
@given(pnm_files())
def test_pnm(tmp_path, file):
    content, values, white = file
    expected = (values.astype(np.int64) * 255 + white // 2) // white
    image = read_image(write(tmp_path, "a.ppm", content))
    np.testing.assert_array_equal(image, np.broadcast_to(expected, (*values.shape[:2], 3)))
    if white == 255:
        np.testing.assert_array_equal(image, Image.open(io.BytesIO(content)).convert("RGB"))


@st.composite
def tiff_files(draw):
    """Return the bytes of a TIFF file, and its pixels as gray or RGB."""
    deep, gray = draw(st.booleans()), draw(st.booleans())
    # 16-bit pictures that use only low bits are warned of.
    height, width = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    shape = (height, width) if gray else (height, width, 3)
    kind = np.uint16 if deep else np.uint8
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    pixels = rng.integers(0, 65536 if deep else 256, shape).astype(kind)
    pixels.flat[0] = 65535 if deep else 255
    options = {
        "byteorder": draw(st.sampled_from("<>")),
        "compression": draw(st.sampled_from([None, "zlib"])),
        "photometric": draw(st.sampled_from(["minisblack", "miniswhite"])) if gray else "rgb",
        "metadata": None,
    }
    stored = pixels
    if not gray and draw(st.booleans()):
        options["planarconfig"], stored = "separate", pixels.transpose(2, 0, 1)
    if draw(st.booleans()):
        # OpenCV decodes no tiles of bytes that are not compressed.
        options |= {"tile": (16, 32)} | ({} if deep else {"compression": "zlib"})
    else:
        options["rowsperstrip"] = draw(st.integers(1, 40))
    file = io.BytesIO()
    tifffile.imwrite(file, np.ascontiguousarray(stored), **options)
    return file.getvalue(), pixels, options["photometric"] == "miniswhite"


@tried
@given(tiff_files())
def test_tiff(tmp_path, file):
    content, pixels, inverted = file
    white = np.iinfo(pixels.dtype).max
    values = (white - pixels if inverted else pixels).astype(np.int64)
    expected = (values * 255 + white // 2) // white
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_image(write(tmp_path, "a.tif", content)), expected)


# ---- arrays, tensors, text ----------------------------------------------------------------------


@tried
@given(
    hnp.arrays(
        st.sampled_from(["<f2", "<f4", "<f8", ">f4", ">f8"]),
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(2)),
        elements=st.floats(-60000, 60000, width=16),
    ),
    st.booleans(),
)
def test_flow(tmp_path, flow, fortran):
    file = io.BytesIO()
    np.save(file, np.asfortranarray(flow) if fortran else flow)
    path = write(tmp_path, "a.npz", as_npz({"flow.npy": file.getvalue()}))
    with np.load(path) as arrays:
        np.testing.assert_array_equal(read_flow(path), arrays["flow"].astype(np.float32))
    height, width, _ = flow.shape
    data = b"PIEH" + struct.pack("<ii", width, height) + flow.astype("<f4").tobytes()
    np.testing.assert_array_equal(read_flow(write(tmp_path, "a.flo", data)), flow)
    for scale, order in ((-1, "<f4"), (2.5, ">f4")):
        rows = np.pad(flow[::-1], ((0, 0), (0, 0), (0, 1))).astype(order).tobytes()
        header = f"PF\n{width} {height}\n{scale}\n".encode()
        np.testing.assert_array_equal(read_flow(write(tmp_path, "a.pfm", header + rows)), flow)


@tried
@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"),
        hnp.arrays(
            st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?"]),
            hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
        ),
        max_size=4,
    ),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_safetensors(tmp_path, arrays, metadata):
    torch = pytest.importorskip("torch")
    from safetensors.numpy import load

    from flowmatch.tensor_files import encode_safetensors, read_safetensors

    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    content = encode_safetensors(tensors, metadata)
    read, about = read_safetensors(write(tmp_path, "a.safetensors", content))
    others = load(content)
    assert about == metadata
    assert read.keys() == others.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].numpy().tobytes() == others[name].tobytes() == array.tobytes()
        assert read[name].shape == others[name].shape == array.shape


@tried
@given(
    st.lists(st.floats(1, 1e5), min_size=4, max_size=4),
    st.sampled_from([" ", "\t", "  ", ", ", ","]),
    st.sampled_from(["{!r}", "{:.3f}", "{:.6e}", "{:g}"]),
    st.booleans(),
)
def test_intrinsics(tmp_path, values, separator, style, short):
    words = [style.format(value) for value in values]
    fx, fy, cx, cy = words
    rows = [words] if short else [[fx, "0", cx], ["0", fy, cy], ["0", "0", "1"]]
    text = "\n".join(separator.join(row) for row in rows)
    camera = read_intrinsics(write(tmp_path, "a.txt", text.encode()))
    fx, fy, cx, cy = map(float, words)
    np.testing.assert_array_equal(camera, [[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
