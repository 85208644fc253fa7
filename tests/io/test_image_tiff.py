"""TIFF files of the kinds that cameras and scientific programs write."""

import io
import itertools
import warnings

import numpy as np
import pytest
from PIL import Image

from flowmatch.io import read_frames, read_image, read_rgba
from flowmatch.io.image import read_pages

tifffile = pytest.importorskip("tifffile")

RGB = (np.indices((48, 64, 3)).sum(0) * 3 % 256).astype(np.uint8)
RGB[..., 1] //= 2
ALPHA = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
RGBA = np.dstack([RGB, ALPHA])

LAYOUTS = {
    "strip": {},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (16, 32)},
    "deflate": {"compression": "zlib", "rowsperstrip": 10},
    "big endian": {"byteorder": ">", "rowsperstrip": 5},
    "BigTIFF": {"bigtiff": True, "rowsperstrip": 5},
    "BigTIFF, tiles": {"bigtiff": True, "tile": (16, 16), "byteorder": ">"},
}


def planes(picture):
    return np.ascontiguousarray(np.moveaxis(picture.astype(np.uint16) * 257, 2, 0))


def overwrite(path, **tags):
    with tifffile.TiffFile(path, mode="r+") as file:
        for name, value in tags.items():
            file.pages.first.tags[name].overwrite(value)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("channels", [3, 4])
def test_separate_planes(channels, layout, tmp_path):
    picture = RGBA[..., :channels]
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    kind = {"photometric": "rgb", "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "a.tif", planes(picture), **kind, **layout, **extra)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)
    alpha = ALPHA if channels == 4 else np.full_like(ALPHA, 255)
    np.testing.assert_array_equal(read_rgba(tmp_path / "a.tif"), np.dstack([RGB, alpha]))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", ["miniswhite", "minisblack"])
def test_gray(photometric, bits, layout, tmp_path):
    gray = RGB[..., 0].astype(np.uint16) * 257 if bits == 16 else RGB[..., 0]
    stored = np.iinfo(gray.dtype).max - gray if photometric == "miniswhite" else gray
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric=photometric, **layout)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB[..., :1].repeat(3, axis=2))
    np.testing.assert_array_equal(read_rgba(tmp_path / "a.tif")[..., 1], RGB[..., 0])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_that_is_not_associated_is_dropped(bits, layout, tmp_path):
    picture = RGBA.astype(np.uint16) * 257 if bits == 16 else RGBA
    kind = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", picture, **kind, **layout)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)
    np.testing.assert_array_equal(read_rgba(tmp_path / "a.tif"), RGBA)


@pytest.mark.filterwarnings("ignore:a picture in .* has several pages")
def test_damaged_directories(tmp_path):
    kind = {"photometric": "rgb", "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "a.tif", planes(RGB), **kind, rowsperstrip=7)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    for place, value in itertools.product(range(4, 300), (0, 255)):
        damaged = content.copy()
        damaged[place] = value
        (tmp_path / "b.tif").write_bytes(damaged)
        try:
            read_image(tmp_path / "b.tif")
        except ValueError:
            continue


@pytest.mark.parametrize("form", [{"byteorder": "<"}, {"byteorder": ">"}, {"bigtiff": True}])
@pytest.mark.parametrize("kind", ["planes", "white is zero", "alpha", "plain"])
def test_pages_are_read_as_pictures_are(kind, form, tmp_path):
    """The kinds that OpenCV decodes wrong, in stacks."""
    rng = np.random.default_rng(0)
    pages = rng.integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    wide = pages.astype(np.uint16) * 257
    data, options, expected = {
        "planes": (np.moveaxis(wide, 3, 1), {"planarconfig": "separate"}, pages),
        "white is zero": (65535 - wide[..., 0], {}, pages[..., :1].repeat(3, axis=3)),
        "alpha": (
            np.concatenate([pages, pages[..., :1]], axis=3),
            {"extrasamples": ["unassalpha"]},
            pages,
        ),
        "plain": (pages, {}, pages),
    }[kind]
    photometric = "miniswhite" if kind == "white is zero" else "rgb"
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, data, photometric=photometric, **form, **options)
    before = path.read_bytes()
    frames = read_frames(path)
    assert frames.count == 3
    np.testing.assert_array_equal(list(frames), expected)
    np.testing.assert_array_equal(list(read_frames(path, start=2)), expected[2:])
    assert path.read_bytes() == before


@pytest.mark.parametrize("lost", [1, 100, 1000])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_files_that_are_cut_off(layout, planar, lost, tmp_path):
    """OpenCV leaves planes of 8 bits that are missing black."""
    picture = np.moveaxis(RGB, 2, 0) if planar == "separate" else RGB
    content = io.BytesIO()
    tifffile.imwrite(content, picture, photometric="rgb", planarconfig=planar, **layout)
    path = tmp_path / "a.tif"
    path.write_bytes(content.getvalue()[:-lost])
    with pytest.raises(ValueError, match=r"a\.tif.*(cut off|the file has)"):
        read_image(path)


@pytest.mark.parametrize("bits", [8, 16])
def test_strips_that_are_not_listed(bits, tmp_path):
    """OpenCV makes pixels of other bytes of the file."""
    path = tmp_path / "a.tif"
    gray = RGB[..., 0].astype(f"u{bits // 8}")
    tifffile.imwrite(path, gray, photometric="minisblack", rowsperstrip=16)
    overwrite(path, ImageLength=2**20)
    with pytest.raises(ValueError, match="lists 3 of its 65536 strips"):
        read_image(path)


def test_strips_that_share_their_bytes(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", rowsperstrip=1)
    with tifffile.TiffFile(path) as file:
        first = file.pages.first.tags["StripOffsets"].value[0]
    overwrite(path, ImageWidth=100, StripOffsets=[first] * 48)
    with pytest.raises(ValueError, match=r"pixels take 14400 bytes, the file has \d+$"):
        read_image(path)


@pytest.mark.parametrize("tag", ["StripOffsets", "StripByteCounts"])
def test_strips_that_are_left_out(tag, tmp_path):
    """Sparse files say 0 for the place and the size of a strip without data."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", rowsperstrip=24)
    with tifffile.TiffFile(path) as file:
        first = file.pages.first.tags[tag].value[0]
    overwrite(path, **{tag: [first, 0]})
    with pytest.raises(ValueError, match="not whole: some of its strips are nowhere"):
        read_image(path)


def test_planes_without_the_sizes_of_their_strips(tmp_path):
    """Libtiff guesses them wrong."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, planes(RGB), photometric="rgb", planarconfig="separate")
    with tifffile.TiffFile(path) as file:
        place = file.pages.first.tags["StripByteCounts"].offset
    content = bytearray(path.read_bytes())
    content[place : place + 2] = (65000).to_bytes(2, "little")  # a private tag
    path.write_bytes(content)
    with pytest.raises(ValueError, match="lists 0 of its 3 strips"):
        read_image(path)


def test_a_compressed_picture_that_claims_too_much(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB[..., 0], photometric="minisblack", compression="zlib")
    overwrite(path, ImageWidth=30_000, ImageLength=30_000, RowsPerStrip=30_000)
    with pytest.raises(ValueError, match="claims 30000 x 30000 pixels"):
        read_image(path)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("scheme", "reason"),
    [(34712, "Compression scheme 34712"), (34925, "LZMA compression"), (50000, "ZSTD compression")],
)
def test_compressions_that_are_not_decoded(scheme, reason, bits, tmp_path):
    """Of JPEG 2000, OpenCV made a black picture."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB[..., 0].astype(f"u{bits // 8}"), photometric="minisblack")
    overwrite(path, Compression=scheme)
    with pytest.raises(ValueError, match=rf"a\.tif is a TIFF of a kind .* decode: {reason} .*not"):
        read_image(path)


def test_the_first_of_two_entries_counts(tmp_path):
    """So it does for libtiff."""
    path = tmp_path / "a.tif"
    gray = RGB[..., 0]
    tifffile.imwrite(path, 255 - gray, photometric="miniswhite", resolution=(1, 1))
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        bits, other = tags["BitsPerSample"].offset, tags["XResolution"].offset
    content[other : other + 12] = content[bits : bits + 8] + b"\x10\0\0\0"  # 16 bits
    path.write_bytes(content)
    np.testing.assert_array_equal(read_image(path), gray[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("side", [16, 32, 256])
@pytest.mark.parametrize("kind", ["rgb", "gray", "planes", "bilevel"])
def test_tiles_that_are_not_compressed(kind, side, tmp_path):
    """OpenCV refuses such tiles of less than 1024 bytes in memory."""
    gray = RGB[..., 0]
    stored, shown, options = {
        "rgb": (RGB, RGB, {"photometric": "rgb"}),
        "gray": (gray, gray, {}),
        "planes": (np.moveaxis(RGB, 2, 0).copy(), RGB, PLANES),
        "bilevel": (gray > 100, (gray > 100) * np.uint8(255), {"photometric": "minisblack"}),
    }[kind]
    tifffile.imwrite(tmp_path / "a.tif", stored, tile=(side, side), **options)
    expected = shown if shown.ndim == 3 else np.dstack([shown] * 3)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)


PLANES = {"photometric": "rgb", "planarconfig": "separate"}


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "tiff_lzw"])
def test_damaged_pixels_of_8_bits_are_an_error(compression, tmp_path, capfd):
    """OpenCV 5.0 leaves them black, without an error; of 16 bits it refuses them."""
    rng = np.random.default_rng(0)
    pages = [
        Image.fromarray(
            np.kron(rng.integers(0, 256, (8, 8, 3), np.uint8), np.ones((4, 4, 1), "u1"))
        )
        for _ in range(2)
    ]
    path = tmp_path / "a.tif"
    pages[0].save(path, compression=compression, save_all=True, append_images=pages[1:])
    whole = bytearray(path.read_bytes())
    assert np.array_equal(read_pages(path, 1, 1)[0], np.asarray(pages[1]))
    with tifffile.TiffFile(path) as file:
        places = [page.dataoffsets[0] + page.databytecounts[0] // 2 for page in file.pages]
    for number, place in enumerate(places):
        damaged = whole.copy()
        damaged[place : place + 4] = b"\xff\0\xff\0"
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.tif is damaged: its pixels cannot be decoded: "):
            read_pages(path, number, 1)
    path.write_bytes(whole[: places[0]] + b"\xff\0\xff\0" + whole[places[0] + 4 :])
    with pytest.raises(ValueError, match="its pixels cannot be decoded"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_image(path)
    assert capfd.readouterr().err == ""
