"""Pictures whose white is not 255 or 65535."""

import struct
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest

from flowmatch._opencv import cv2
from flowmatch.io import read_frames, read_image, read_rgba, white_level

WHITES = [1, 15, 100, 255, 256, 1023, 4095, 16383, 65535]
SPACES = {"plain": b"\n", "comment": b" # 7 bits?\n"}


def stored(values, white):
    return values.astype(">u2" if white > 255 else "u1").tobytes()


def ramp(white, channels=1):
    """Return stored values from 0 to white, and the picture that they are."""
    values = np.linspace(0, white, 12 * channels).round().astype(int).reshape(2, 6, channels)
    return values, np.floor(values * 255 / white + 0.5).astype(int)


@pytest.mark.parametrize("white", WHITES)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("kind", [2, 3, 5, 6])
def test_netpbm_white(kind, white, space, tmp_path):
    values, expected = ramp(white, 3 if kind in (3, 6) else 1)
    header = b"P%d%b6 2\n%d\n" % (kind, space, white)
    data = stored(values, white) if kind > 3 else " ".join(map(str, values.flat)).encode()
    (tmp_path / "a.ppm").write_bytes(header + data)
    image = read_image(tmp_path / "a.ppm")
    np.testing.assert_array_equal(image, np.broadcast_to(expected, (2, 6, 3)))
    np.testing.assert_array_equal(read_rgba(tmp_path / "a.ppm")[..., :3], image)


@pytest.mark.parametrize("white", [255, 1023])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pam(channels, white, tmp_path):
    values, expected = ramp(white, channels)
    header = b"P7\nHEIGHT 2\nWIDTH 6\n# made by hand\nDEPTH %d\nMAXVAL %d\nTUPLTYPE ANY\nENDHDR\n"
    (tmp_path / "a.pam").write_bytes(header % (channels, white) + stored(values, white))
    colour = expected[..., :3] if channels > 2 else expected[..., :1]
    image = read_image(tmp_path / "a.pam")
    np.testing.assert_array_equal(image, np.broadcast_to(colour, (2, 6, 3)))
    alpha = expected[..., -1] if channels in (2, 4) else 255
    assert (read_rgba(tmp_path / "a.pam")[..., 3] == alpha).all()


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_pbm(space, tmp_path):
    black = np.random.default_rng(0).random((5, 11)) < 0.5
    head = space + b"11" + space + b"5\n"
    rows = b"\n".join(b"".join(b"%d" % value for value in row) for row in black)
    (tmp_path / "a.pbm").write_bytes(b"P1" + head + rows)
    (tmp_path / "b.pbm").write_bytes(b"P4" + head + np.packbits(black, axis=1).tobytes())
    for name in ("a.pbm", "b.pbm"):
        expected = np.where(black, 0, 255)[..., None].repeat(3, axis=2)
        np.testing.assert_array_equal(read_image(tmp_path / name), expected)


def test_a_damaged_pbm_takes_no_memory(tmp_path):
    """OpenCV took 3 GB for it."""
    for content in (
        b"P4 9999 99999\x7f99999 2\n",
        b"P4 99999 99999\n0",
        b"P1 3 2 10102",
        b"P1 1 1 2",
    ):
        (tmp_path / "a.ppm").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.ppm is damaged"):
            read_image(tmp_path / "a.ppm")


def test_values_above_white_are_white(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1000\n" + np.array([500, 1001], ">u2").tobytes())
    assert read_image(tmp_path / "a.pgm")[0, :, 0].tolist() == [128, 255]


@pytest.mark.parametrize(
    "content",
    [b"P5 4 4 255\n123", b"P5 4 4 0\n" + bytes(16), b"P5 0 4 255\n", b"P2 2 1 255\n1 x",
     b"P2 99999 99999 255\n1 2", b"P6 99999 99999 255\n12", b"P7\nWIDTH 2\nENDHDR\n12",
     b"P5 4 4 70000\n" + bytes(32), b"P2 2 1 9\n-1 2", b"P5"],
)  # fmt: skip
def test_damaged_netpbm(content, tmp_path):
    (tmp_path / "a.pgm").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pgm( is damaged|: expected at least 1 x 1)"):
        read_image(tmp_path / "a.pgm")


@pytest.mark.parametrize("depth", [8, 10, 12])
def test_avif(depth, tmp_path):
    white = 2**depth - 1
    values = np.tile(np.linspace(0, white, 64).round(), (16, 1))[..., None].repeat(3, axis=2)
    options = [cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_QUALITY, 100]
    kind = np.uint8 if depth == 8 else np.uint16
    done = cv2.imwrite(str(tmp_path / "a.avif"), values.astype(kind), options)
    if not done:
        pytest.skip("this OpenCV has no encoder of AVIF")
    assert np.abs(read_image(tmp_path / "a.avif") - values * 255 / white).max() <= 2


@pytest.mark.parametrize("depth", [8, 9, 10, 12, 14, 16])
def test_jpeg_2000(depth, tmp_path):
    pixel_format = {8: "gray", 16: "gray16le"}.get(depth, f"gray{depth}le")
    codec = av.CodecContext.create("jpeg2000", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 64, 16, pixel_format, Fraction(1)
    values = np.tile(np.linspace(0, 2**depth - 1, 64).round(), (16, 1))
    frame = av.VideoFrame(64, 16, pixel_format)
    rows = values.astype("u1" if depth == 8 else "<u2").view(np.uint8).reshape(16, -1)
    padding = frame.planes[0].line_size - rows.shape[1]
    frame.planes[0].update(np.pad(rows, ((0, 0), (0, padding))))
    packets = [*codec.encode(frame), *codec.encode(None)]
    (tmp_path / "a.jp2").write_bytes(b"".join(map(bytes, packets)))
    image = read_image(tmp_path / "a.jp2")[..., 0]
    assert np.abs(image - values * 255 / (2**depth - 1)).max() <= 2


@pytest.mark.parametrize(("brightest", "white"), [(1023, 1023), (1024, 4095), (4095, 4095)])
def test_low_bits_of_16_are_told_once(brightest, white, tmp_path):
    values = np.array([[0, 512, brightest]], np.uint16)
    for name in ("a.png", "b.tif"):
        cv2.imwrite(str(tmp_path / name), values)
        with pytest.warns(UserWarning, match=f"{tmp_path} holds no value above .* --white {white}"):
            assert read_image(tmp_path / name)[0, :, 0].tolist() == [0, 2, brightest // 257 + 1]
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("default")
        for name in ("a.png", "b.tif", "a.png"):
            read_image(tmp_path / name)
    assert len(messages) == 1


@pytest.mark.parametrize("name", ["a.png", "b.tif", "stack.tif"])
def test_white_level_reaches_all_readers(name, tmp_path):
    values = np.array([[0, 2048, 4095]], np.uint16)
    pages = [values, values[:, ::-1].copy()] if name == "stack.tif" else [values]
    cv2.imwritemulti(str(tmp_path / name), pages)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for frames in (read_frames(tmp_path / name, white=4095), lazily(tmp_path / name)):
            read = [frame[0, :, 1].tolist() for frame in frames]
            assert read == [[0, 128, 255], [255, 128, 0]][: len(pages)]
        if len(pages) == 1:
            with white_level(4095), white_level(None):
                assert read_rgba(tmp_path / name)[0, :, 1].tolist() == [0, 128, 255]
                assert read_image(tmp_path / name, white=65535)[0, :, 1].tolist() == [0, 8, 16]
    with pytest.raises(ValueError, match="white must be a value from 1 to 65535, got 0"):
        read_frames(tmp_path / name, white=0)


def lazily(path):
    with white_level(4095):
        return read_frames(path)  # which are read outside of the block, perhaps in a thread


def test_white_of_frames_is_in_their_digest(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 2), np.uint16))
    digests = {read_frames(tmp_path, white=white).digest() for white in (None, 1023, 4095)}
    assert len(digests) == 3


def test_white_of_ones_own(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[0, 2048, 4095, 9999]], np.uint16))
    cv2.imwrite(str(tmp_path / "b.png"), np.array([[0, 100]], np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.png", white=4095)[0, :, 0].tolist() == [0, 128, 255, 255]
        assert read_image(tmp_path / "b.png", white=4095)[0, :, 0].tolist() == [0, 100]
        cv2.imwrite(str(tmp_path / "black.png"), np.zeros((2, 2), np.uint16))
        read_image(tmp_path / "black.png")
    for white in (0, 65536):
        with pytest.raises(ValueError, match="white must be a value from 1 to 65535"):
            read_image(tmp_path / "a.png", white=white)


@pytest.mark.parametrize("masks", [None, (0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F)])
def test_bmp_of_16_bits(masks, tmp_path):
    """Pixels of 5 or 6 bits a channel: white is white."""
    pixels = np.arange(2**16, dtype="<u2").reshape(256, 256)
    extra = b"" if masks is None else struct.pack("<3I", *masks)
    start = 54 + len(extra)
    header = struct.pack(
        "<2sIIIIiiHHIIiiII", b"BM", start + pixels.nbytes, 0, start, 40, 256, -256, 1, 16,
        0 if masks is None else 3, pixels.nbytes, 0, 0, 0, 0,
    )  # fmt: skip
    (tmp_path / "a.bmp").write_bytes(header + extra + pixels.tobytes())
    expected = np.empty((256, 256, 3), np.uint8)
    for k, mask in enumerate(masks or (0x7C00, 0x3E0, 0x1F)):
        expected[..., k] = np.rint((pixels & mask) / mask * 255)
    np.testing.assert_array_equal(read_image(tmp_path / "a.bmp"), expected)
