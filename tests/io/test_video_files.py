"""Video files as other programs write them: variable rates, other sizes, flags, damage."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from flowmatch._opencv import cv2
from flowmatch.io import read_frames

Y, X = np.mgrid[:96, :128]
PICTURE = np.stack([127 + 100 * np.sin(X / 9), 127 + 100 * np.cos(Y / 7), X + Y], axis=2)
FRAMES = [np.roll(PICTURE.astype(np.uint8), 3 * k, axis=1) for k in range(12)]


def write(path, codec="libx264", times=range(12), rate=25, height=96, width=128, **options):
    """Write frames at given times, in steps of one frame."""
    container_format = options.pop("format", None)
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        for k, time in enumerate(times):
            pixels = np.ascontiguousarray(FRAMES[k % 12][:height, :width])
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def size(frame):
    return frame.shape[1], frame.shape[0]


def test_another_size_in_the_middle_is_skipped(tmp_path):
    large = write(tmp_path / "a", times=range(4), format="h264").read_bytes()
    small = write(tmp_path / "b", times=range(3), height=48, width=64, format="h264").read_bytes()
    (tmp_path / "clip.h264").write_bytes(large + small + large)
    frames = read_frames(tmp_path / "clip.h264")
    numbered = list(frames.numbered())
    assert [number for number, _ in numbered] == [0, 1, 2, 3, 7, 8, 9, 10]
    assert {size(frame) for _, frame in numbered} == {(128, 96)}
    assert [skipped.index for skipped in frames.skipped] == [4, 5, 6]
    assert frames.skipped[0].reason == "64 x 48 pixels, the first frame has 128 x 96"


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("screen.mkv", "libx264", {"times": (0, 1, 2, 30, 60, 61, 120), "rate": 60}),
        ("camera.flv", "libx264", {}),
        ("dropped.avi", "mpeg4", {"times": (0, 1, 2, 5, 6, 9)}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.mp4", "libx264", {"bf": "3", "g": "6"}),
    ],
)
def test_whole_videos_are_not_called_damaged(name, codec, options, tmp_path):
    path = write(tmp_path / name, codec, **options)
    frames = read_frames(path)
    assert len(list(frames)) == len(options.get("times", range(12)))
    assert frames.skipped == []


def test_a_stream_that_begins_within_a_group_of_pictures(tmp_path):
    path = write(tmp_path / "a.ts", times=range(24), g="6")
    path.write_bytes(path.read_bytes()[188 * 8 :])
    frames = read_frames(path)
    assert len(list(frames)) == 18
    assert frames.skipped == []


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")])
def test_files_that_are_cut_off(name, codec, tmp_path):
    path = write(tmp_path / name, codec)
    content = path.read_bytes()
    path.write_bytes(content[: 9 * len(content) // 10])
    frames = read_frames(path)
    count = len(list(frames))
    assert 0 < count < 12
    assert [skipped.index for skipped in frames.skipped] == [count]
    expected = f"the file is cut off, it has {path.stat().st_size} of {len(content)} bytes"
    assert expected in frames.skipped[0].reason


def test_av1(tmp_path):
    try:
        path = write(tmp_path / "a.mp4", "libsvtav1")
    except av.error.FFmpegError as error:
        pytest.skip(f"no encoder of AV1: {error}")
    frames = read_frames(path)
    decoded = list(frames)
    assert frames.skipped == []
    errors = [np.abs(a.astype(int) - b).mean() for a, b in zip(decoded, FRAMES, strict=True)]
    assert max(errors) < 10


@pytest.mark.parametrize(
    ("turns", "matrix"),
    [(3, (0, 1, 0, -1, 0, 0)), (2, (-1, 0, 0, 0, -1, 0)), (1, (0, -1, 0, 1, 0, 0))],
)
def test_rotation_flags(turns, matrix, tmp_path):
    path = write(tmp_path / "a.mp4")
    upright = list(read_frames(path))
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    content[place : place + 24] = struct.pack(">6i", *(65536 * number for number in matrix))
    path.write_bytes(content)
    for frame, expected in zip(read_frames(path), upright, strict=True):
        np.testing.assert_array_equal(frame, np.rot90(expected, turns))


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4")])
def test_frames_are_those_of_opencv(name, codec, tmp_path):
    path = write(tmp_path / name, codec)
    capture = cv2.VideoCapture(str(path))
    for frame in read_frames(path):
        other = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
        assert np.abs(frame.astype(int) - other).max() <= 2
    assert not capture.read()[0]


def test_files_without_frames(tmp_path):
    (tmp_path / "text.mp4").write_text("this is not a video")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    for name in ("text.mp4", "sound.wav"):
        with pytest.raises(ValueError, match=f"{name} is neither a video"):
            read_frames(tmp_path / name)
