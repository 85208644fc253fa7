import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from flowmatch.io import read_image
from flowmatch.io._claims import check_claim
from flowmatch.io._orientation import read_orientation
from flowmatch.io.image import count_pages, read_pages

PIXELS = np.random.default_rng(0).integers(0, 256, (56, 72, 3), dtype=np.uint8)
SIDE = 16_000


def by_pillow(kind, pages=1, **options):
    pictures = [Image.fromarray(np.roll(PIXELS, k, axis=1)) for k in range(pages)]
    if pages > 1:
        options |= {"save_all": True, "append_images": pictures[1:]}
    file = io.BytesIO()
    pictures[0].save(file, kind, **options)
    return bytearray(file.getvalue())


def by_opencv(suffix, *options):
    return bytearray(cv2.imencode(suffix, PIXELS, options)[1].tobytes())


def claiming():
    """Return files of a few kilobytes whose headers claim 16000 x 16000 pixels."""
    files = {}
    files["canvas.gif"] = data = by_pillow("gif")
    struct.pack_into("<HH", data, 6, SIDE, SIDE)
    files["frame.gif"] = data = by_pillow("gif")
    place = data.index(b",", 13 + 3 * 256)
    struct.pack_into("<HH", data, place + 5, SIDE, SIDE)
    files["lossy.webp"] = data = by_opencv(".webp", cv2.IMWRITE_WEBP_QUALITY, 80)
    struct.pack_into("<HH", data, data.index(b"VP8 ") + 14, SIDE, SIDE)
    files["lossless.webp"] = data = by_opencv(".webp", cv2.IMWRITE_WEBP_QUALITY, 101)
    place = data.index(b"VP8L") + 9
    bits = struct.unpack_from("<I", data, place)[0] & ~0xFFFFFFF | (SIDE - 1) * (1 + 2**14)
    struct.pack_into("<I", data, place, bits)
    files["animated.webp"] = data = by_pillow("webp", pages=2)
    place = data.index(b"VP8X") + 12
    data[place : place + 6] = (SIDE - 1).to_bytes(3, "little") * 2
    for name, boxes in (("a.jp2", True), ("a.j2k", False)):
        files[name] = data = by_pillow("jpeg2000", no_jp2=not boxes)
        place = data.index(b"\xff\x4f\xff\x51")
        for at in (8, 24):  # size of the picture and of a tile
            struct.pack_into(">II", data, place + at, SIDE, SIDE)
    files["a.avif"] = data = by_opencv(".avif")
    struct.pack_into(">II", data, data.index(b"ispe") + 8, SIDE, SIDE)
    return {name: bytes(content) for name, content in files.items()}


@pytest.mark.parametrize("name", claiming())
@pytest.mark.parametrize("read", [read_image, count_pages, read_orientation])
def test_pictures_that_claim_too_much(tmp_path, name, read):
    (tmp_path / name).write_bytes(claiming()[name])
    with pytest.raises(ValueError, match=rf"{name}: claims 16000 x 16000 pixels, but its \d+ byt"):
        read(tmp_path / name)


def test_animations_that_claim_too_much(tmp_path):
    (tmp_path / "a.webp").write_bytes(claiming()["animated.webp"])
    with pytest.raises(ValueError, match=r"a\.webp: claims 16000 x 16000"):
        read_pages(tmp_path / "a.webp", 0, 1)


@pytest.mark.parametrize(("side", "refused"), [(2000, False), (5000, True)])
def test_canvas_of_an_animation_of_some_bytes(side, refused, tmp_path):
    """A still picture of 5000 x 5000 pixels may take as few bytes."""
    content = by_pillow("webp", pages=2, lossless=True)[:800]
    place = content.index(b"VP8X") + 12
    content[place : place + 6] = (side - 1).to_bytes(3, "little") * 2
    if refused:
        with pytest.raises(ValueError, match="claims 5000 x 5000 pixels, but its 800 bytes may"):
            check_claim(tmp_path / "a.webp", memoryview(bytes(content)))
        content[place - 4] &= ~2  # no animation
    check_claim(tmp_path / "a.webp", memoryview(bytes(content)))


@pytest.mark.parametrize("start", [0, 53])
def test_pixels_within_the_header_of_a_bmp(start, tmp_path):
    """OpenCV takes the header for pixels, without an error."""
    content = by_opencv(".bmp")
    struct.pack_into("<I", content, 10, start)
    (tmp_path / "a.bmp").write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"a\.bmp is damaged: its pixels begin at byte {start}, wi"
    ):
        read_image(tmp_path / "a.bmp")


def test_no_temporary_file_stays_of_a_damaged_hdr(tmp_path, monkeypatch):
    """OpenCV leaves one where the header claims too much."""
    content = by_opencv(".hdr").replace(b"+X 72", b"+X 99999999")
    (tmp_path / "a.hdr").write_bytes(content)
    monkeypatch.setenv("OPENCV_TEMP_PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"a\.hdr: expected an image of 8 or 16 bits"):
        read_image(tmp_path / "a.hdr")
    assert [file.name for file in tmp_path.iterdir()] == ["a.hdr"]


@pytest.mark.parametrize("suffix", [".webp", ".avif", ".gif", ".jp2"])
def test_flat_pictures_of_4k_are_read(tmp_path, suffix):
    flat = np.full((2160, 3840, 3), 7, np.uint8)
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    content = cv2.imencode(suffix, flat, options)[1].tobytes()
    assert suffix == ".gif" or len(content) < 20_000
    check_claim(tmp_path / f"a{suffix}", memoryview(content))


@pytest.mark.parametrize("name", claiming())
def test_files_cut_anywhere(tmp_path, name):
    """What is cut off is left to the decoder; the check itself raises nothing but ValueError."""
    content = claiming()[name]
    for end in range(0, min(len(content), 1200)):
        try:
            check_claim(tmp_path / name, memoryview(content[:end]))
        except ValueError as error:
            assert "claims" in str(error)


def test_orientation_of_an_empty_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.png is damaged"):
        read_orientation(tmp_path / "a.png")


def test_boxes_of_endless_length(tmp_path):
    content = bytearray(claiming()["a.jp2"])
    struct.pack_into(">I4sQ", content, 12, 1, b"free", 2**64 - 1)
    check_claim(tmp_path / "a.jp2", memoryview(bytes(content)))
