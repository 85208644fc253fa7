"""Small pictures of every kind that OpenCV decodes."""

import io

import cv2
import numpy as np
import tifffile
from PIL import Image

from .seeds import PIXELS, Seed, encoded, png_checksums

GRAY = PIXELS[..., 0]
RGBA = np.dstack([PIXELS, GRAY])


def image_seeds() -> list[Seed]:
    """Return pictures: depths, channels, compressions, interlacing, pages and animations."""
    pictures = {
        "png": [
            encoded(".png", PIXELS), encoded(".png", GRAY), encoded(".png", RGBA),
            encoded(".png", PIXELS.astype(np.uint16) * 257),
            _pil("png", palette=True), _pil("png", bits=1),
            encoded(".png", GRAY, cv2.IMWRITE_PNG_BILEVEL, 1),
        ],
        "jpg": [
            encoded(".jpg", PIXELS), encoded(".jpg", GRAY),
            encoded(".jpg", PIXELS, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), _pil("jpeg", exif=6),
        ],
        "bmp": [encoded(".bmp", PIXELS), encoded(".bmp", RGBA), _pil("bmp", palette=True)],
        "tif": [
            *_tiffs(), _pil("tiff", pages=3), encoded(".tif", PIXELS),
            encoded(".tif", GRAY, cv2.IMWRITE_TIFF_COMPRESSION, 32773),
        ],
        "webp": [
            encoded(".webp", PIXELS), encoded(".webp", RGBA, cv2.IMWRITE_WEBP_QUALITY, 101),
            _pil("webp", pages=3),
        ],
        "ppm": [
            encoded(".ppm", PIXELS), b"P3\n2 2\n# a\n15\n" + b"1 2 3 " * 4, b"P5 2 2 255\nabcd",
            b"P2 2 2 7 1 2 3 4", b"P5 2 2 1023\n" + bytes(8), b"P4 9 2\n" + bytes(4),
            b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n" + bytes(16),
        ],
        "gif": [_pil("gif"), _pil("gif", pages=3)],
        "jp2": [_pil("jpeg2000"), encoded(".jp2", np.tile(PIXELS, (8, 8, 1)))],
        "avif": [encoded(".avif", PIXELS)],
        "hdr": [encoded(".hdr", PIXELS.astype(np.float32))],
        "ras": [encoded(".ras", PIXELS)],
        "pfm": [encoded(".pfm", PIXELS.astype(np.float32))],
    }  # fmt: skip
    repairs = {"png": png_checksums}
    return [
        Seed(f"a.{suffix}", content, repairs.get(suffix))
        for suffix, contents in pictures.items()
        for content in contents
    ]


def metadata_seeds() -> list[Seed]:
    """Return photos of both byte orders, with EXIF, a place, and a colour profile in two parts."""
    seeds = []
    for order in "<>":
        tags = Image.Exif()
        tags.endian = order
        tags[0x010F], tags[0x0112], tags[0x0132] = "Maker", 6, "2024:05:06 07:08:09"
        tags.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", 0xA405: 27})
        tags.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 7.5)})
        file = io.BytesIO()
        Image.fromarray(PIXELS).save(file, "jpeg", exif=tags)
        parts = (b"\xff\xe2\0\x16ICC_PROFILE\0%c\2part %d" % (k, k) for k in (1, 2))
        content = file.getvalue()
        seeds.append(Seed("a.jpg", content))
        seeds.append(Seed("a.jpg", content[:2] + b"".join(parts) + content[2:]))
    return seeds


def _pil(
    kind: str, *, palette: bool = False, bits: int = 8, pages: int = 1, exif: int = 0
) -> bytes:
    picture = Image.fromarray(PIXELS)
    if palette:
        picture = picture.convert("P")
    if bits == 1:
        picture = picture.convert("1")
    options: dict[str, object] = {}
    if pages > 1:
        others = [Image.fromarray(np.roll(PIXELS, k, axis=1)) for k in range(1, pages)]
        options = {"save_all": True, "append_images": others}
    if exif:
        tags = Image.Exif()
        tags[274] = exif
        options["exif"] = tags.tobytes()
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _tiffs() -> list[bytes]:
    deep = PIXELS.astype(np.uint16) * 257
    contents = []
    for pixels, options in (
        (PIXELS, {}), (PIXELS, {"byteorder": ">"}), (GRAY, {"photometric": "miniswhite"}),
        (deep, {"planarconfig": "separate", "photometric": "rgb"}),
        (deep.transpose(2, 0, 1), {"planarconfig": "separate", "photometric": "rgb"}),
        (deep[..., 0], {"photometric": "miniswhite"}), (PIXELS, {"compression": "zlib"}),
        (PIXELS, {"tile": (16, 16)}), (RGBA, {"extrasamples": ["unassalpha"]}),
        (GRAY.astype(np.float32), {}), (GRAY, {"bigtiff": True}),
    ):  # fmt: skip
        file = io.BytesIO()
        if pixels.ndim == 3 and options.get("planarconfig") and pixels.shape[2] == 3:
            pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        tifffile.imwrite(file, pixels, **options)
        contents.append(file.getvalue())
    return contents
