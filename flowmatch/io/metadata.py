"""What a camera wrote into a photo, for pictures made of it: EXIF and the colour profile."""

import re
import struct
import zlib
from pathlib import Path
from typing import NamedTuple, TypeAlias

from flowmatch.io._files import FilePath, existing_file

_Field: TypeAlias = tuple[int, int, bytes]  # type, count, value
_Fields: TypeAlias = dict[int, _Field]

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 10: 8}  # bytes of a value, by EXIF's type
_MAX_FIELDS, _MAX_VALUE = 512, 16_384
_EXIF_POINTER, _GPS_POINTER, _ORIENTATION, _FOCAL_35MM = 0x8769, 0x8825, 0x0112, 0xA405
# Fields that hold for pictures made of a photo: make, model, date, artist, copyright; dates with
# their fractions and time zones, and the lens. Sizes, thumbnails and maker notes do not.
_KEPT = {0x010F, 0x0110, 0x0132, 0x013B, 0x8298}
_KEPT_EXIF = {
    0x9003, 0x9004, 0x9010, 0x9011, 0x9012, 0x9290, 0x9291, 0x9292, 0xA433, 0xA434,
}  # fmt: skip
_EXIF, _ICC, _XMP = b"Exif\0\0", b"ICC_PROFILE\0", b"http://ns.adobe.com/xap/1.0/\0"
_PNG = b"\x89PNG\r\n\x1a\n"
_SEGMENT = 65_533  # bytes that fit into a segment of a JPEG
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


class Metadata(NamedTuple):
    """Metadata of a picture.

    Attributes:
        exif: EXIF as a TIFF: camera, lens, date, author and place; upright. None if there is none.
        icc: Colour profile, or None.
        xmp: XMP as XML, or None.
        focal_35mm: Focal length that gives the same field of view on film of 36 x 24 millimetres,
            millimetres, or None.
    """

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: str | None = None
    focal_35mm: float | None = None


def read_metadata(path: FilePath) -> Metadata:
    """Read what a camera wrote into a JPEG.

    Args:
        path: File; formats other than JPEG have no metadata here.

    Returns:
        EXIF without what holds for this file only (sizes, thumbnail, maker notes, orientation), the
        colour profile and the focal length. Damaged metadata is left out.

    Raises:
        FileNotFoundError: The file does not exist.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from flowmatch.io import write_image
        >>> path = Path(tempfile.mkdtemp()) / "plain.jpg"
        >>> write_image(path, np.zeros((4, 4), np.uint8))
        >>> read_metadata(path)
        Metadata(exif=None, icc=None, xmp=None, focal_35mm=None)
    """
    exif, profile, number_of_parts = b"", {}, 0
    for kind, content in _segments(existing_file(path)):
        if kind == 0xE1 and content.startswith(_EXIF) and not exif:
            exif = content[len(_EXIF) :]
        if kind == 0xE2 and content.startswith(_ICC) and len(content) > len(_ICC) + 2:
            profile[content[len(_ICC)]] = content[len(_ICC) + 2 :]
            number_of_parts = content[len(_ICC) + 1]
    whole = sorted(profile) == list(range(1, number_of_parts + 1))
    icc = b"".join(profile[number] for number in sorted(profile)) if whole else None
    try:
        kept, focal = _kept_exif(exif)
    except (struct.error, ValueError):
        return Metadata(icc=icc or None)
    return Metadata(kept, icc or None, None, focal)


def _segments(path: Path) -> list[tuple[int, bytes]]:
    """Return the segments of a JPEG before its pixels: marker and content."""
    segments = []
    with path.open("rb") as file:
        if file.read(2) != b"\xff\xd8":
            return []
        while len(head := file.read(2)) == 2 and head[0] == 0xFF and head[1] != 0xDA:
            if head[1] in _WITHOUT_LENGTH:
                continue
            length = int.from_bytes(file.read(2), "big")
            segments.append((head[1], file.read(max(0, length - 2))))
    return segments


def _kept_exif(tiff: bytes) -> tuple[bytes | None, float | None]:
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        return None, None
    order = "<" if tiff[:1] == b"I" else ">"
    main = _read_fields(tiff, order, struct.unpack_from(f"{order}I", tiff, 4)[0])
    inner = [
        _read_fields(tiff, order, struct.unpack(f"{order}I", main[pointer][2])[0])
        if pointer in main and len(main[pointer][2]) == 4
        else {}
        for pointer in (_EXIF_POINTER, _GPS_POINTER)
    ]
    focal = inner[0].get(_FOCAL_35MM, (0, 0, b""))[2]
    millimetres = struct.unpack(f"{order}H", focal)[0] if len(focal) == 2 else 0
    fields = {tag: field for tag, field in main.items() if tag in _KEPT}
    exif = {tag: field for tag, field in inner[0].items() if tag in _KEPT_EXIF}
    fields[_ORIENTATION] = (3, 1, struct.pack(f"{order}H", 1))
    # Many fields of a damaged file may share one value; then the copy would not fit into a segment.
    if 26 + sum(map(_length, (fields, exif, inner[1]))) > _SEGMENT - len(_EXIF):
        raise ValueError("expected EXIF that fits into a segment of a JPEG")
    return _write_fields(order, fields, exif, inner[1]), float(millimetres) or None


def _read_fields(tiff: bytes, order: str, at: int) -> _Fields:
    (count,) = struct.unpack_from(f"{order}H", tiff, at)
    fields: _Fields = {}
    room = len(tiff)  # the values of a damaged file may overlap
    for place in range(at + 2, at + 2 + 12 * min(count, _MAX_FIELDS), 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", tiff, place)
        size = _SIZES.get(kind, 0) * number
        if not 0 < size <= _MAX_VALUE:
            continue
        start = place + 8 if size <= 4 else struct.unpack_from(f"{order}I", tiff, place + 8)[0]
        value = tiff[start : start + size]
        room -= len(value)
        if room < 0:
            raise ValueError("values that overlap")
        if len(value) == size:
            fields[tag] = (kind, number, value)
    return fields


def _write_fields(order: str, main: _Fields, exif: _Fields, gps: _Fields) -> bytes:
    """Return a TIFF of three directories."""
    main = dict(main)
    inner = {p: f for p, f in ((_EXIF_POINTER, exif), (_GPS_POINTER, gps)) if f}
    for pointer in inner:
        main[pointer] = (4, 1, b"\0\0\0\0")
    place = 8 + _length(main)
    for pointer, fields in inner.items():
        main[pointer] = (4, 1, struct.pack(f"{order}I", place))
        place += _length(fields)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    result = head + _directory(order, main, 8)
    for fields in inner.values():
        result += _directory(order, fields, len(result))
    return result


def _length(fields: _Fields) -> int:
    return 6 + 12 * len(fields) + sum(
        len(value) + len(value) % 2 for _, _, value in fields.values() if len(value) > 4
    )  # fmt: skip


def _directory(order: str, fields: _Fields, start: int) -> bytes:
    table, values = struct.pack(f"{order}H", len(fields)), b""
    after = start + 6 + 12 * len(fields)
    for tag, (kind, count, value) in sorted(fields.items()):
        table += struct.pack(f"{order}HHI", tag, kind, count)
        if len(value) <= 4:
            table += value.ljust(4, b"\0")
        else:
            table += struct.pack(f"{order}I", after + len(values))
            values += value + b"\0" * (len(value) % 2)
    return table + b"\0\0\0\0" + values


def embed_metadata(encoded: bytes, metadata: Metadata) -> bytes:
    """Return an encoded picture with metadata: JPEG and PNG; other formats stay as they are.

    Args:
        encoded: Content of a file without metadata.
        metadata: Metadata; `Metadata.focal_35mm` is a part of EXIF and is not written.
    """
    if encoded[:2] == b"\xff\xd8":
        # After JFIF's header, which comes first.
        place = 2
        if encoded[2:4] == b"\xff\xe0":
            place = 4 + int.from_bytes(encoded[4:6], "big")
        return encoded[:place] + _jpeg_segments(metadata) + encoded[place:]
    if encoded.startswith(_PNG):
        place = len(_PNG) + 25  # after the chunk IHDR
        return encoded[:place] + _png_chunks(metadata) + encoded[place:]
    return encoded


def _jpeg_segments(metadata: Metadata) -> bytes:
    contents: list[tuple[int, bytes]] = []
    if metadata.exif:
        contents.append((0xE1, _EXIF + metadata.exif))
    if metadata.xmp:
        contents.append((0xE1, _XMP + metadata.xmp.encode()))
    if metadata.icc:
        size = _SEGMENT - len(_ICC) - 2
        parts = [metadata.icc[k : k + size] for k in range(0, len(metadata.icc), size)]
        for number, part in enumerate(parts if len(parts) < 256 else (), 1):
            contents.append((0xE2, _ICC + bytes([number, len(parts)]) + part))
    return b"".join(
        bytes([0xFF, kind]) + struct.pack(">H", len(content) + 2) + content
        for kind, content in contents
        if len(content) <= _SEGMENT
    )


def _png_chunks(metadata: Metadata) -> bytes:
    chunks = []
    if metadata.icc:
        chunks.append(b"iCCPprofile\0\0" + zlib.compress(metadata.icc))
    if metadata.exif:
        chunks.append(b"eXIf" + metadata.exif)
    if metadata.xmp:
        chunks.append(b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp.encode())
    return b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def sphere_xmp(width: int, height: int, top: int) -> str:
    """Return XMP by which viewers show a picture as the inside of a sphere.

    Args:
        width: Width of the picture, all directions around, pixels.
        height: Height of the picture, pixels.
        top: Rows between the zenith and the first row of the picture.

    Example:
        >>> "FullPanoHeightPixels>1000<" in sphere_xmp(2000, 600, 180)
        True

    Reference:
        Google, Photo Sphere XMP Metadata.
    """
    fields = {
        "ProjectionType": "equirectangular", "UsePanoramaViewer": "True",
        "FullPanoWidthPixels": width, "FullPanoHeightPixels": (width + 1) // 2,
        "CroppedAreaImageWidthPixels": width, "CroppedAreaImageHeightPixels": height,
        "CroppedAreaLeftPixels": 0, "CroppedAreaTopPixels": top,
    }  # fmt: skip
    lines = "".join(f"<GPano:{name}>{value}</GPano:{name}>" for name, value in fields.items())
    return re.sub(r"\n *", "", f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
        <x:xmpmeta xmlns:x="adobe:ns:meta/">
        <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
        <rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/">
        {lines}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>""")  # fmt: skip
