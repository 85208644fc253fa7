"""TIFF files of the kinds that cameras and scientific programs write."""

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
}


def planes(picture):
    return np.ascontiguousarray(np.moveaxis(picture.astype(np.uint16) * 257, 2, 0))


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


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["planes", "white is zero", "alpha", "plain"])
def test_pages_are_read_as_pictures_are(kind, order, tmp_path):
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
    tifffile.imwrite(path, data, photometric=photometric, byteorder=order, **options)
    before = path.read_bytes()
    frames = read_frames(path)
    assert frames.count == 3
    np.testing.assert_array_equal(list(frames), expected)
    np.testing.assert_array_equal(list(read_frames(path, start=2)), expected[2:])
    assert path.read_bytes() == before


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
