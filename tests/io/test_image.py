"""Reading and writing pictures."""

import struct
import warnings
import zlib

import numpy as np
import pytest

from flowmatch._opencv import cv2
from flowmatch.io import IMAGE_SUFFIXES, list_images, read_image, read_rgba, write_image
from flowmatch.io.photo import read_photo, sample_readable

LOSSLESS = [".png", ".bmp", ".tif", ".tiff", ".ppm", ".webp"]


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_round_trip(suffix, image, tmp_path):
    path = tmp_path / f"снимок é{suffix}"
    write_image(path, image[:, ::-1])
    back = read_image(path)
    np.testing.assert_array_equal(back, image[:, ::-1])
    assert back.flags.c_contiguous
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG"])
def test_jpeg_is_rgb(suffix, tmp_path):
    write_image(tmp_path / f"a{suffix}", np.full((16, 16, 3), (200, 80, 40), np.uint8))
    assert np.abs(read_image(tmp_path / f"a{suffix}").astype(int) - (200, 80, 40)).max() <= 3


@pytest.mark.parametrize("suffix", [".png", ".pgm"])
def test_gray(suffix, image, tmp_path):
    write_image(tmp_path / f"gray{suffix}", image[..., 0])
    expected = np.repeat(image[..., :1], 3, axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / f"gray{suffix}"), expected)


def test_sixteen_bits_alpha_and_floats(image, tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), image[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), image)
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([image[..., ::-1], image[..., 0]]))
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), image)
    cv2.imwrite(str(tmp_path / "float.tif"), image.astype(np.float32) / 255)
    with pytest.raises(ValueError, match=r"float\.tif: expected an image of 8 or 16 bits"):
        read_image(tmp_path / "float.tif")


@pytest.mark.parametrize("suffix", [".tif", ".png", ".ppm"])
def test_sixteen_bits_of_every_format(suffix, tmp_path):
    """OpenCV 5.0 returns unwritten memory for such a TIFF when it is asked for RGB."""
    image = np.random.default_rng(0).integers(0, 256, (61, 75, 3), dtype=np.uint8)
    deep = image[..., ::-1].astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / f"deep{suffix}"), deep)
    np.testing.assert_array_equal(read_image(tmp_path / f"deep{suffix}"), image)


def test_rgba(tmp_path):
    clear = np.array([[[10, 20, 30, 0], [40, 50, 60, 128]]], np.uint8)
    cv2.imwrite(str(tmp_path / "clear.png"), clear[..., [2, 1, 0, 3]])
    np.testing.assert_array_equal(read_rgba(tmp_path / "clear.png"), clear)
    cv2.imwrite(str(tmp_path / "deep.png"), clear[..., [2, 1, 0, 3]].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_rgba(tmp_path / "deep.png"), clear)
    write_image(tmp_path / "opaque.png", clear[..., :3])
    np.testing.assert_array_equal(
        read_rgba(tmp_path / "opaque.png"), np.dstack([clear[..., :3], [[255, 255]]])
    )
    write_image(tmp_path / "gray.png", clear[..., 0])
    assert read_rgba(tmp_path / "gray.png")[0, 1].tolist() == [40, 40, 40, 255]


def test_another_picture_replaces_an_unreadable_one(image, tmp_path):
    write_image(tmp_path / "good.png", image)
    (tmp_path / "bad.png").write_bytes(b"nothing")
    files = [tmp_path / name for name in ("bad.png", "good.png", "gone.png")]
    rng = np.random.default_rng(0)
    with pytest.warns(UserWarning) as warned:
        samples = [sample_readable(rng, files, read_image) for _ in range(8)]
    assert all(place == 1 and np.array_equal(picture, image) for place, picture in samples)
    assert {"bad" in str(warning.message) for warning in warned} == {True, False}
    with (
        pytest.warns(UserWarning),
        pytest.raises(
            ValueError,
            match=r"none of 20 items chosen at random can be read; the last one: .*gone\.png",
        ),
    ):
        sample_readable(rng, files[2:], read_image)


def test_exif_orientation_is_applied(image, tmp_path):
    path = tmp_path / "turned.jpg"
    write_image(path, image)
    entry = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    content = path.read_bytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    path.write_bytes(content[:2] + segment + content[2:])
    assert read_image(path).shape == (11, 7, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.6])
def test_damaged_pictures_are_errors(suffix, part, tmp_path, capfd):
    path = tmp_path / f"damaged{suffix}"
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match="damaged"):
        read_image(path)
    assert capfd.readouterr().err == ""  # libpng and libjpeg print there


def test_wrong_input_is_an_error(image, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.png"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("this is not a picture")
    with pytest.raises(ValueError, match=r"text\.png"):
        read_image(tmp_path / "text.png")
    with pytest.raises(ValueError, match=", ".join(IMAGE_SUFFIXES).replace(".", r"\.")):
        write_image(tmp_path / "a.xyz", image)
    for wrong in (image / 255, image[..., :2], image[:0], image[None]):
        with pytest.raises(
            ValueError, match=r"a\.png: image must be uint8 RGB \[H, W, 3\] or gray"
        ):
            write_image(tmp_path / "a.png", wrong)
    with pytest.raises(ValueError, match="holds gray"):
        write_image(tmp_path / "a.pgm", image)
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_image(tmp_path / "none" / "a.png", image)
    assert [file.name for file in tmp_path.iterdir()] == ["text.png"]


def test_a_png_that_claims_more_than_its_bytes_hold(image, tmp_path):
    """Without the check, a file of a few hundred bytes allocates gigabytes."""
    path = tmp_path / "a.png"
    write_image(path, image)
    encoded = bytearray(path.read_bytes())
    encoded[16:24] = struct.pack(">II", 30_000, 30_000)
    encoded[29:33] = struct.pack(">I", zlib.crc32(encoded[12:29]))
    path.write_bytes(encoded)
    with pytest.raises(ValueError, match="a.png: claims 2700030000 bytes, but its"):
        read_image(path)


def with_jpeg_size(content, side):
    """Change the size in the header of the picture, not that of its thumbnail."""
    at = content.rfind(b"\xff\xc0\0\x11")
    return content[: at + 5] + struct.pack(">HH", side, side) + content[at + 9 :]


def test_a_jpeg_that_claims_more_than_its_bytes_hold(image, tmp_path):
    path = tmp_path / "a.jpg"
    write_image(path, image)
    content = path.read_bytes()
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    for before in (b"", thumbnail, b"\xff\xff", b"between\xff\0"):
        path.write_bytes(with_jpeg_size(content[:20] + before + content[20:], 32_000))
        with pytest.raises(ValueError, match="a.jpg: claims 32000 x 32000 pixels, but its"):
            read_image(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_reads_the_smallest_of_flat_jpegs(channels, tmp_path):
    """A progressive JPEG with optimal codes has less than two bits for a block of 64 pixels."""
    flat = np.full((1600, 1600, channels), 90, np.uint8)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    path = tmp_path / "flat.jpg"
    path.write_bytes(cv2.imencode(".jpg", flat, options)[1].tobytes())
    assert flat[..., 0].size > 150 * path.stat().st_size
    assert (read_image(path) == 90).all()


def test_a_failed_write_leaves_no_file(image, tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, None))
    with pytest.raises(ValueError, match="cannot be encoded"):
        write_image(tmp_path / "a.png", image)
    assert not list(tmp_path.iterdir())


def test_a_photograph_has_a_smallest_size(tmp_path):
    for side in (31, 32):
        write_image(tmp_path / f"{side}.png", np.zeros((side, 40, 3), np.uint8))
    assert read_photo(tmp_path / "32.png").shape == (32, 40, 3)
    with pytest.raises(ValueError, match="31.png: a photograph must have 32 pixels to a side"):
        read_photo(tmp_path / "31.png")


@pytest.mark.parametrize(("suffix", "longest"), [("jpg", 65500), ("JPEG", 65500), ("webp", 16383)])
def test_sizes_that_a_format_cannot_hold(tmp_path, capfd, suffix, longest):
    path = tmp_path / f"long.{suffix}"
    write_image(path, np.zeros((1, longest, 3), np.uint8))
    assert read_image(path).shape == (1, longest, 3)
    for shape in ((1, longest + 1), (longest + 1, 1)):
        with pytest.raises(ValueError, match=f"holds at most {longest} x {longest} pixels, got"):
            write_image(path, np.zeros(shape, np.uint8))
    assert read_image(path).shape == (1, longest, 3)
    assert capfd.readouterr().err == ""


def test_pictures_by_other_names_are_listed_and_other_kinds_are_named(tmp_path):
    for name in ("a.jpg", "b.jfif", "c.JPE", "d.gif", "e.txt", ".f.heic"):
        (tmp_path / name).write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [path.name for path in list_images(tmp_path)] == [
            "a.jpg",
            "b.jfif",
            "c.JPE",
            "d.gif",
        ]
    (tmp_path / "g.HEIC").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"skipped 1 picture of kinds .* g\.HEIC"):
        assert len(list_images(tmp_path)) == 4


def test_a_png_whose_part_claims_too_much(tmp_path):
    """OpenCV allocated what a part claims: 634 MB for a file of 82 bytes."""
    write_image(tmp_path / "a.png", np.zeros((7, 9, 3), np.uint8))
    whole = (tmp_path / "a.png").read_bytes()
    at = whole.index(b"IDAT")
    claimed = whole[: at - 4] + bytes([0x25, 0xCC, 0xE1, 0x7F]) + whole[at:]
    for content, message in ((claimed, "claims 634184063 bytes"), (whole[:-20], "too early")):
        (tmp_path / "b.png").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_image(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes(whole + b"further bytes, after the end")
    assert read_image(tmp_path / "b.png").shape == (7, 9, 3)
