"""Image sequences with known homographies, in the layouts of the benchmarks."""

import cv2
import numpy as np
import pytest

from flowmatch.matching.data.sequences import find_image_pairs, read_homography

H = np.array([[0.5, 0.1, 20.25], [-0.1, 0.75, 3], [1e-4, 0, 1]])


def text(matrix):
    return "\n".join(" ".join(map(str, row)) for row in matrix)


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def test_hpatches(tmp_path):
    for sequence in ("v_wall", "i_dome"):
        touch(tmp_path / sequence, *(f"{k}.ppm" for k in range(1, 12)))
        for k in (2, 10, 3):
            (tmp_path / sequence / f"H_1_{k}").write_text(text(H))
    pairs = find_image_pairs(tmp_path)
    assert [pair.name for pair in pairs] == [
        f"{sequence}/{k}" for sequence in ("i_dome", "v_wall") for k in (2, 3, 10)
    ]
    assert [pair.group for pair in pairs] == ["illumination"] * 3 + ["viewpoint"] * 3
    assert {pair.first.name for pair in pairs} == {"1.ppm"}
    alone = find_image_pairs(tmp_path / "v_wall")
    assert [pair.name for pair in alone] == ["./2", "./3", "./10"]


def test_oxford_and_opencv(tmp_path):
    touch(tmp_path / "graf", "img1.ppm", "img2.ppm", "img3.ppm", "H1to2p", "readme.txt")
    touch(tmp_path / "sample", "graf1.png", "graf3.png", "H1to3p.xml")
    pairs = find_image_pairs(tmp_path)
    assert [(p.first.name, p.second.name, p.homography.name) for p in pairs] == [
        ("img1.ppm", "img2.ppm", "H1to2p"),
        ("graf1.png", "graf3.png", "H1to3p.xml"),
    ]
    assert [pair.group for pair in pairs] == ["", ""]


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder .* does not exist"):
        find_image_pairs(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected sequences with images 1, 2"):
        find_image_pairs(tmp_path)
    touch(tmp_path / "v_wall", "1.ppm", "H_1_2")
    with pytest.raises(ValueError, match="H_1_2: image 2 is missing in the same folder"):
        find_image_pairs(tmp_path)


def test_homographies_in_both_formats(tmp_path):
    (tmp_path / "H_1_2").write_text(text(H))
    storage = cv2.FileStorage(str(tmp_path / "H1to2p.xml"), cv2.FILE_STORAGE_WRITE)
    storage.write("H12", H)
    storage.release()
    for name in ("H_1_2", "H1to2p.xml"):
        np.testing.assert_allclose(read_homography(tmp_path / name), H)


@pytest.mark.parametrize("name", ["H_1_2", "H1to2p.xml"])
@pytest.mark.parametrize(
    "content",
    [b"", b"1 2 3", b"nonsense", b"\xff\xfe", b"<?xml", b"0 0 0 0 0 0 0 0 0",
     b"1 0 0 0 nan 0 0 0 1", b'<?xml version="1.0"?><opencv_storage><a>3</a></opencv_storage>'],
)  # fmt: skip
def test_damaged_homographies(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: expected a"):
        read_homography(tmp_path / name)
