"""Metadata of photos: what is kept, what other programs read of it, and damaged files."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageCms

from flowmatch.io import Metadata, read_metadata, write_image
from flowmatch.io.metadata import embed_metadata, sphere_xmp

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(params=["<", ">"])
def photo(request, tmp_path):
    """A JPEG of a camera held upright: turned by a quarter, with date, place and focal length."""
    exif = Image.Exif()
    exif.endian = request.param
    exif[0x010F], exif[0x0112], exif[0x0131] = "Maker", 6, "Firmware 3"
    exif[0x0132] = "2024:05:06 07:08:09"
    exif.get_ifd(0x8769).update(
        {0x9003: "2024:05:06 07:08:09", 0xA405: 27, 0xA002: 60, 0x927C: b"x" * 900}
    )
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 7.5)})
    path = tmp_path / "photo.jpg"
    Image.fromarray(PIXELS).save(path, exif=exif, icc_profile=PROFILE)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_what_holds_for_a_picture_made_of_a_photo_is_kept(photo, tmp_path, suffix):
    metadata = read_metadata(photo)
    assert metadata.focal_35mm == 27 and metadata.icc == PROFILE and metadata.xmp is None
    target = tmp_path / f"result{suffix}"
    write_image(target, PIXELS, metadata=metadata._replace(xmp=sphere_xmp(60, 20, 5)))
    with Image.open(target) as picture:
        picture.load()
        exif, info = picture.getexif(), picture.info
        if suffix == ".png":
            np.testing.assert_array_equal(np.asarray(picture), PIXELS)
    kept = {tag: value for tag, value in exif.items() if tag not in (0x8769, 0x8825)}
    assert kept == {0x010F: "Maker", 0x0112: 1, 0x0132: "2024:05:06 07:08:09"}
    assert exif.get_ifd(0x8769) == {0x9003: "2024:05:06 07:08:09"}
    assert exif.get_ifd(0x8825)[2] == (48.0, 8.0, 7.5)
    assert info["icc_profile"] == PROFILE
    assert b"<GPano:CroppedAreaTopPixels>5<" in bytes(info["xmp"])
    again = read_metadata(target)
    assert again.exif == (metadata.exif if suffix == ".jpg" else None)


def test_large_profiles_are_divided(tmp_path):
    profile = np.random.default_rng(0).bytes(150_000)
    write_image(tmp_path / "a.jpg", PIXELS, metadata=Metadata(icc=profile))
    assert read_metadata(tmp_path / "a.jpg").icc == profile
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.info["icc_profile"] == profile


def test_damaged_metadata_is_left_out(photo, tmp_path):
    """Whatever is changed, a photo is read, and what is written can be opened."""
    content, rng = bytearray(photo.read_bytes()), np.random.default_rng(0)
    start = content.index(b"Exif")
    path = tmp_path / "damaged.jpg"
    for _ in range(200):
        damaged = content.copy()
        for place in rng.integers(start, start + 400, 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: int(rng.integers(start, len(damaged)))])
        encoded = io.BytesIO()
        Image.fromarray(PIXELS).save(encoded, "JPEG")
        with Image.open(io.BytesIO(embed_metadata(encoded.getvalue(), read_metadata(path)))) as p:
            p.load()
    path.write_bytes(b"")
    assert read_metadata(path) == Metadata()
    with pytest.raises(FileNotFoundError, match=r"nosuch.jpg"):
        read_metadata(tmp_path / "nosuch.jpg")


def test_other_formats_stay_as_they_are(tmp_path):
    write_image(tmp_path / "a.bmp", PIXELS, metadata=Metadata(icc=PROFILE))
    with Image.open(tmp_path / "a.bmp") as picture:
        np.testing.assert_array_equal(np.asarray(picture), PIXELS)


def test_profiles_that_are_not_whole_are_left_out(tmp_path):
    part = b"\xff\xe2\0\x16ICC_PROFILE\0%c%cpart %d"
    write_image(tmp_path / "a.jpg", PIXELS)
    content = (tmp_path / "a.jpg").read_bytes()
    for parts, icc in (([(1, 2), (2, 2)], b"part 1part 2"), ([(1, 2)], None), ([(2, 2)], None)):
        segments = b"".join(part % (number, count, number) for number, count in parts)
        (tmp_path / "a.jpg").write_bytes(content[:2] + segments + content[2:])
        assert read_metadata(tmp_path / "a.jpg").icc == icc


def test_fields_that_share_one_value_take_no_memory(tmp_path):
    """500 fields that name the same 16 KB would make 8 MB of EXIF."""
    fields = b"".join(struct.pack("<HHII", tag, 7, 16_000, 6100) for tag in range(500))
    place = struct.pack("<HHHII", 1, 0x8825, 4, 1, 26) + bytes(4)
    tiff = b"II*\0" + struct.pack("<I", 8) + place + struct.pack("<H", 500) + fields
    tiff = tiff.ljust(23_000, b"x")
    segment = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8" + segment)
    tracemalloc.start()
    assert read_metadata(tmp_path / "a.jpg") == Metadata()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
