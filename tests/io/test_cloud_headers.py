"""Headers, lists and separators of .ply, .pcd and .xyz files as other programs write them."""

import numpy as np
import pytest

from flowmatch.io import read_cloud, read_intrinsics, read_poses

POINTS = np.arange(36, dtype="<f4").reshape(12, 3) + 10
XYZ = "property float x\nproperty float y\nproperty float z\n"
FACE = "property list uchar int vertex_indices\n"
LITTLE = "binary_little_endian"


def ply(body, form="ascii", end="\n"):
    text = f"ply\nformat {form} 1.0\n{body}end_header\n"
    return text.replace("\n", end).encode("latin1")


def faces(lengths, order="<"):
    return b"".join(bytes([n]) + np.arange(n).astype(f"{order}i4").tobytes() for n in lengths)


def read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    return read_cloud(tmp_path / name)


# ---- line ends ----------------------------------------------------------------------------------

# Bytes of data that look like line ends, right after the header.
LINE_ENDS_IN_DATA = np.frombuffer(b"\n\r\n\r\r\n\n\n\r\r\n\r", "<f4").reshape(1, 3)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\r"])
@pytest.mark.parametrize("points", [POINTS, LINE_ENDS_IN_DATA])
def test_binary_files_with_any_line_end(end, points, tmp_path):
    body = f"element vertex {len(points)}\n{XYZ}element face 40\n{FACE}"
    content = ply(body, LITTLE, end) + points.tobytes() + b"\n" + faces([3] * 40)
    np.testing.assert_array_equal(read(tmp_path, "a.ply", content), points)
    header = f"VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH {len(points)}\nHEIGHT 1\n"
    header += f"POINTS {len(points)}\nDATA binary\n"
    content = header.replace("\n", end).encode() + points.tobytes() + b"\n"
    np.testing.assert_array_equal(read(tmp_path, "a.pcd", content), points)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\r"])
def test_text_files_with_any_line_end(end, tmp_path):
    rows = f"9{end}1 2 3{end}4 5 6{end}".encode()
    body = f"element camera 1\nproperty int id\nelement vertex 2\n{XYZ}"
    content = ply(body, end=end) + rows
    assert read(tmp_path, "a.ply", content).tolist() == [[1, 2, 3], [4, 5, 6]]
    header = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 2\nDATA ascii\n"
    content = header.replace("\n", end).encode() + rows[1 + len(end) :]
    assert read(tmp_path, "a.pcd", content).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert read(tmp_path, "a.xyz", rows[1 + len(end) :]).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("blank", [" ", "\t"])
def test_blanks_at_the_end_of_header_lines(blank, tmp_path):
    content = ply(f"element vertex 12\n{XYZ}", LITTLE, f"{blank}\n") + POINTS.tobytes()
    np.testing.assert_array_equal(read(tmp_path, "a.ply", content), POINTS)
    with pytest.raises(ValueError, match="expected a PLY file starting with ply"):
        read(tmp_path, "a.ply", content.replace(b"ply", b"ply of", 1))


# ---- letters in comments ------------------------------------------------------------------------

LETTERS = ["Ångström", "х", "全公关", "a\x0bb", "a\x0cb", "a\x1cb\x1db\x1eb", "a\x85b", "a\u2028b"]


@pytest.mark.parametrize("letters", LETTERS)
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "gb18030"])
def test_any_letters_in_comments(letters, encoding, tmp_path):
    mark = letters.encode(encoding, errors="replace") + b"\x85"
    body = f"comment MARK\nobj_info MARK\nelement vertex 12\n{XYZ}"
    content = ply(body, LITTLE).replace(b"MARK", mark) + POINTS.tobytes()
    np.testing.assert_array_equal(read(tmp_path, "a.ply", content), POINTS)
    header = b"# %b\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 12\nDATA binary\n" % mark
    np.testing.assert_array_equal(read(tmp_path, "a.pcd", header + POINTS.tobytes()), POINTS)
    assert read(tmp_path, "a.xyz", b"# %b\n1 2 3\n" % mark).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("name", ["Ångström", "全", "a\x85b"])
def test_any_letters_in_names_and_comments_of_poses(name, tmp_path):
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / f"{name}.png").write_bytes(b"")
    matrix = " ".join(str(x) for x in np.eye(4).ravel())
    text = f"\ufeff# {name}\x85\u2028\r\n{name} {matrix}\r\n"
    (tmp_path / "poses.txt").write_bytes(text.encode())
    assert [pose[0] for pose in read_poses(tmp_path)] == [name]


def test_a_byte_order_mark_before_points(tmp_path):
    assert read(tmp_path, "a.xyz", b"\xef\xbb\xbf1 2 3\n").tolist() == [[1, 2, 3]]


# ---- elements and properties --------------------------------------------------------------------


def test_end_header_in_a_comment(tmp_path):
    body = f"comment end_header\nelement vertex 12\n{XYZ}comment no end_header yet\n"
    content = ply(body, LITTLE) + POINTS.tobytes()
    np.testing.assert_array_equal(read(tmp_path, "a.ply", content), POINTS)


@pytest.mark.parametrize("lengths", [[3] * 5, [3, 4, 0, 5, 3], []])
@pytest.mark.parametrize("order", ["<", ">"])
def test_faces_before_the_vertices(lengths, order, tmp_path):
    form = {"<": LITTLE, ">": "binary_big_endian"}[order]
    body = f"element face {len(lengths)}\n{FACE}property uchar flag\nelement vertex 12\n{XYZ}"
    rows = b"".join(faces([n], order) + b"\7" for n in lengths)
    content = ply(body, form) + rows + POINTS.astype(f"{order}f4").tobytes()
    np.testing.assert_array_equal(read(tmp_path, "a.ply", content), POINTS)


@pytest.mark.parametrize("lengths", [[2, 2], [2, 0]])
def test_lists_in_the_vertices(lengths, tmp_path):
    points = [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]]
    fields = "property list uchar int ids\nproperty float x\nproperty float y\n"
    body = f"element vertex 2\n{fields}property list uchar int more\nproperty float z\n"
    text, data = "", b""
    for n, (x, y, z) in zip(lengths, points, strict=True):
        text += f"{n} {'7 ' * n}{x} {y} 1 9 {z}\n"
        data += faces([n]) + np.array([x, y], "<f4").tobytes() + faces([1])
        data += np.array([z], "<f4").tobytes()
    assert read(tmp_path, "a.ply", ply(body) + text.encode()).tolist() == points
    assert read(tmp_path, "b.ply", ply(body, LITTLE) + data).tolist() == points


@pytest.mark.parametrize("height", ["HEIGHT 3\n", ""])
def test_pcd_without_points(height, tmp_path):
    header = f"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH {4 if height else 12}\n{height}"
    content = f"{header}DATA binary\n".encode() + POINTS.tobytes()
    np.testing.assert_array_equal(read(tmp_path, "a.pcd", content), POINTS)


# ---- separators ---------------------------------------------------------------------------------

PCD = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 1\nDATA ascii\n"


@pytest.mark.parametrize("row", ["1,5 2,5 3,5", "1,5\t2\t3", "1 2 3,5", "1,5 2,5 3,5 7 8 9"])
def test_decimal_commas_are_no_separators(row, tmp_path):
    body = f"element vertex 1\n{XYZ}"
    for name, start in (("a.xyz", b""), ("a.ply", ply(body)), ("a.pcd", PCD.encode())):
        with pytest.raises(ValueError, match=name):
            read(tmp_path, name, start + row.encode() + b"\n")
    with pytest.raises(ValueError, match="write decimals with a point"):
        read(tmp_path, "a.xyz", b"# a, b c,d\n1 2 3\n" + row.encode())
    with pytest.raises(ValueError, match="write decimals with a point"):
        read(tmp_path, "a.xyz", b"1,5, 2,5, 3,5\n")  # both separate numbers and end integers
    with pytest.raises(ValueError, match="write decimals with a point"):
        read(tmp_path, "a.xyz", b"1,5 ,2,5 ,3,5\n")


@pytest.mark.parametrize("row", ["1.5,2.5,3.5", "1.5, 2.5, 3.5", "1.5 ,2.5 , 3.5,9", "1.5 2.5 3.5"])
def test_commas_may_separate_in_xyz(row, tmp_path):
    content = f"# x,y z, w\n{row} # 1,5 2,5\n".encode()
    assert read(tmp_path, "a.xyz", content).tolist() == [[1.5, 2.5, 3.5]]


def test_decimal_commas_in_intrinsics(tmp_path):
    (tmp_path / "k.txt").write_text("1,5 2,5")
    with pytest.raises(ValueError, match=r"k\.txt: line 1 has both commas and spaces"):
        read_intrinsics(tmp_path / "k.txt")


@pytest.mark.parametrize(("row", "found"), [("1 2 3 4", 4), ("1.000 2.000", 2)])
def test_rows_have_as_many_numbers_as_properties(row, found, tmp_path):
    body = f"element vertex 2\n{XYZ}"
    for name, start in (("a.ply", ply(body)), ("a.pcd", PCD.replace("POINTS 1", "POINTS 2"))):
        start = start if isinstance(start, bytes) else start.encode()
        reason = f"expected numbers: a line needs 3 columns but {found} were found at row 1"
        with pytest.raises(ValueError, match=rf"{name}: {reason}$"):
            read(tmp_path, name, start + f"{row}\n{row}\n".encode())


# ---- false claims -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ply", ply(f"element face 999999999999\n{FACE}element vertex 1\n{XYZ}", LITTLE)),
        ("a.ply", ply(f"element face 1\n{FACE}element vertex 1\n{XYZ}", LITTLE) + b"\xff" * 20),
        (
            "a.ply",
            ply(f"element face 2\nproperty list int int i\nelement vertex 1\n{XYZ}", LITTLE)
            + b"\xff" * 40,
        ),
        (
            "a.ply",
            ply(f"element f 1\nproperty list float int i\nelement vertex 1\n{XYZ}", LITTLE)
            + b"\0" * 40,
        ),
        ("a.ply", ply(f"element vertex 1\nproperty list int int i\n{XYZ}") + b"-1 1 2 3\n"),
        ("a.ply", ply(f"element vertex 1\nproperty list int int i\n{XYZ}") + b"9 1 2 3\n"),
        ("a.pcd", PCD.replace("z\n", "z a\n").replace("4\n", "4 4\n").replace("F\n", "F F\n")
         .replace("POINTS 1", "COUNT 1 1 1 999999999999999\nPOINTS 1").encode() + b"1 2 3\n"),
        ("a.pcd", b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 99999999\nHEIGHT 99999999\n"
         b"DATA binary\n" + b"\0" * 24),
    ],
)  # fmt: skip
def test_false_claims_are_errors(name, content, tmp_path):
    with pytest.raises(ValueError, match=name) as caught:
        read(tmp_path, name, content)
    assert "\n" not in str(caught.value)
