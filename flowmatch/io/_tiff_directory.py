"""The directories of TIFF and BigTIFF files: tags, their values, and where the pixels lie."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
STRIPS, SAMPLES, ROWS, COUNTS, PLANAR = 273, 277, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_COUNTS = 322, 323, 324, 325
EXTRA, FORMAT = 338, 339
# Whole numbers, by type; libtiff takes signed ones too.
CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}
# Bytes of a value, by type: numbers, texts, fractions, signed numbers, floats.
_SIZES = dict(
    zip(range(1, 19), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8), strict=True)
)
_SMALLEST = 8  # bytes of the header; sparse files leave strips out, and say 0 for place and size
_OLD_JPEG = 6  # compression whose places mean something else
_YCBCR = 6  # photometric interpretation; two of its samples may have fewer pixels


def _unpack(code: str, encoded: memoryview, place: int) -> tuple[int, ...]:
    """Unpack whole numbers at a place, which may be any: struct knows those below 2^63 alone."""
    if place > len(encoded):
        raise struct.error(f"place {place} is behind the {len(encoded)} bytes of the file")
    return struct.unpack_from(code, encoded, place)


class Entry(NamedTuple):
    """An entry of a directory.

    Attributes:
        place: Place of the entry in the file.
        kind: Type of the values.
        length: Number of values.
        data: Place of the values.
    """

    place: int
    kind: int
    length: int
    data: int


class Form(NamedTuple):
    """How a file writes its directories.

    Attributes:
        order: ``"<"`` or ``">"``, order of the bytes.
        number: Code of `struct` for the number of entries.
        offset: Code of `struct` for a place in the file, and for a number of values.
    """

    order: str
    number: str
    offset: str

    @property
    def room(self) -> int:
        """Bytes of an entry for a place, or for the values themselves."""
        return struct.calcsize(self.order + self.offset)

    @property
    def first(self) -> int:
        """Place of the place of the first directory."""
        return 4 if self.offset == "I" else 8


_FORMS = {
    b"II*\0": Form("<", "H", "I"), b"MM\0*": Form(">", "H", "I"),
    b"II+\0": Form("<", "Q", "Q"), b"MM\0+": Form(">", "Q", "Q"),
}  # fmt: skip


def is_tiff(encoded: memoryview) -> bool:
    """Return whether a file begins as a TIFF or a BigTIFF does."""
    return bytes(encoded[:4]) in _FORMS


class Directory(NamedTuple):
    """A directory, which describes a page.

    Attributes:
        form: How the file writes it.
        encoded: Content of the file.
        entries: Its entries, by tag; the first of a tag counts, as for libtiff.
    """

    form: Form
    encoded: memoryview
    entries: dict[int, Entry]

    def value(self, tag: int, default: int) -> int:
        """Return the first value of a tag.

        Raises:
            KeyError: It is not a whole number.
            struct.error: The file ends before it.
        """
        if tag not in self.entries:
            return default
        entry = self.entries[tag]
        code = self.form.order + CODES[entry.kind]
        return int(_unpack(code, self.encoded, entry.data)[0])

    def values(self, tag: int) -> NDArray[np.int64]:
        """Return all values of a tag; none if it is missing.

        Raises:
            KeyError: They are not whole numbers.
            ValueError: The file ends before them.
        """
        if tag not in self.entries:
            return np.empty(0, np.int64)
        entry = self.entries[tag]
        kind = np.dtype(self.form.order + CODES[entry.kind])
        if entry.data + entry.length * kind.itemsize > len(self.encoded):
            raise ValueError(f"the values of tag {tag} are not whole")
        values = np.frombuffer(self.encoded, kind, entry.length, entry.data)
        return np.minimum(values.astype(np.uint64), 2**61).astype(np.int64)  # sums of two fit


def directory_places(encoded: memoryview) -> Iterator[int]:
    """Yield the places of the directories of a TIFF, one for each page; none for other files.

    Those behind the end of a file that is cut off are left out.
    """
    form = _FORMS.get(bytes(encoded[:4]))
    if form is None:
        return
    seen = set()
    try:
        (place,) = _unpack(form.order + form.offset, encoded, form.first)
        while place and place not in seen:
            number, begin, size = _extent(encoded, form, place)
            yield place
            seen.add(place)
            (place,) = _unpack(form.order + form.offset, encoded, begin + size * number)
    except struct.error:
        return


def read_directory(encoded: memoryview, place: int | None = None) -> Directory:
    """Read the directory of a TIFF at a place, by default the first.

    Raises:
        struct.error: The file ends before it.
    """
    form = _FORMS[bytes(encoded[:4])]
    if place is None:
        (place,) = _unpack(form.order + form.offset, encoded, form.first)
    number, begin, size = _extent(encoded, form, place)
    entries: dict[int, Entry] = {}
    for at in range(begin, begin + size * number, size):
        tag, kind, length = _unpack(form.order + "HH" + form.offset, encoded, at)
        data = at + size - form.room
        if length * _SIZES.get(kind, 8) > form.room:
            (data,) = _unpack(form.order + form.offset, encoded, data)
        entries.setdefault(tag, Entry(at, kind, length, data))
    return Directory(form, encoded, entries)


def _extent(encoded: memoryview, form: Form, place: int) -> tuple[int, int, int]:
    """Return the number of entries, the place of the first, and the size of each."""
    (number,) = _unpack(form.order + form.number, encoded, place)
    begin = place + struct.calcsize(form.order + form.number)
    return number, begin, 4 + 2 * form.room


def choose_page(encoded: memoryview, place: int) -> None:
    """Make the directory at a place the first of a TIFF, which decoders take."""
    form = _FORMS[bytes(encoded[:4])]
    struct.pack_into(form.order + form.offset, encoded, form.first, place)


def check_pixels(path: Path, encoded: memoryview) -> tuple[int, int] | None:
    """Check that a TIFF holds all pixels of its first page: decoders leave missing ones black.

    Returns:
        Width and height of a page that is compressed; None if its pixels are in the file, or if
        the directory is damaged so that the decoder refuses it.

    Raises:
        ValueError: Strips or tiles are missing or end behind the file.
    """
    try:
        directory = read_directory(encoded)
        width, height = directory.value(WIDTH, 0), directory.value(HEIGHT, 0)
        if min(width, height) < 1:
            return None
        _check_parts(path, directory, width, height)
        return None if directory.value(COMPRESSION, 1) == 1 else (width, height)
    except (struct.error, KeyError):
        return None


def _check_parts(path: Path, directory: Directory, width: int, height: int) -> None:
    tiled = TILE_WIDTH in directory.entries
    columns = directory.value(TILE_WIDTH, 0) if tiled else width
    rows = directory.value(TILE_HEIGHT, 0) if tiled else min(directory.value(ROWS, height), height)
    samples = directory.value(SAMPLES, 1)
    if min(columns, rows, samples) < 1:
        return  # the decoder refuses it
    planes = samples if directory.value(PLANAR, 1) == 2 else 1
    down = -(-height // rows)
    expected = planes * down * -(-width // columns)
    kind = "tiles" if tiled else "strips"
    try:
        places = directory.values(TILES if tiled else STRIPS)
        counts = directory.values(TILE_COUNTS if tiled else COUNTS)
    except ValueError:
        raise ValueError(
            f"{path} is damaged, or cut off: the list of its {kind} is not whole"
        ) from None
    listed = min(len(places), len(counts)) if planes > 1 else len(places)
    if listed < expected:
        raise ValueError(f"{path} is damaged: it lists {listed} of its {expected} {kind}")
    # Of a single strip, decoders guess the size that is not said.
    unsized = expected > 1 and len(counts) >= expected and not counts[:expected].all()
    if unsized or places[:expected].min() < _SMALLEST:
        raise ValueError(f"{path} is not whole: some of its {kind} are nowhere in the file")
    compression = directory.value(COMPRESSION, 1)
    if compression == _OLD_JPEG:
        return
    if compression != 1:
        ends = places[: len(counts)] + counts[: len(places)]
    elif directory.value(PHOTOMETRIC, 1) == _YCBCR:
        return
    else:
        row = -(-columns * directory.value(BITS, 1) * (samples // planes) // 8)
        needed = np.full(expected, row * rows)
        if not tiled:  # the last strip of each plane may be shorter
            needed[down - 1 :: down] = row * (height - (down - 1) * rows)
        ends = places[:expected] + needed
        if (claimed := int(needed.sum())) > len(directory.encoded):
            raise ValueError(
                f"{path}: its pixels take {claimed} bytes, the file has {len(directory.encoded)}"
            )
    if ends.size and (end := int(ends.max())) > len(directory.encoded):
        raise ValueError(
            f"{path} is damaged, or cut off: its {kind} end at byte {end}, "
            f"the file has {len(directory.encoded)}"
        )
