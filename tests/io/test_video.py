"""Frames of videos, folders and lists, and writing of videos."""

import os
import re
import sys

import numpy as np
import pytest

from flowmatch.io import VideoWriter, read_frames, write_image


def gray_frames(count, height=48, width=64):
    """Return frames whose value is 20 k + 20, so that a decoded frame reveals its number."""
    return [np.full((height, width, 3), 20 * k + 20, np.uint8) for k in range(count)]


def write_video(path, frames, rate=10):
    with VideoWriter(path, rate) as video:
        for frame in frames:
            video.write(frame)


def numbers(frames):
    return [round((float(frame.mean()) - 20) / 20) for frame in frames]


@pytest.fixture
def folder(tmp_path):
    """Return a folder of seven pictures whose natural order is not the alphabetical one."""
    for k, frame in enumerate(gray_frames(7, 6, 8)):
        write_image(tmp_path / f"frame{k + 5}.png", frame)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "._frame5.png").write_text("left by macOS")
    return tmp_path


@pytest.fixture
def clip(tmp_path):
    write_video(tmp_path / "clip.avi", gray_frames(8))
    return tmp_path / "clip.avi"


def chunks(content):
    """Return (start, size) of each frame's bytes in an AVI."""
    starts = [match.start() for match in re.finditer(b"00dc", content)]
    movie = content.index(b"movi")
    index = content.index(b"idx1")
    sizes = [int.from_bytes(content[at + 4 : at + 8], "little") for at in starts]
    return [(at + 8, size) for at, size in zip(starts, sizes, strict=True) if movie < at < index]


# ---- videos --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.webm"])
def test_the_same_frames_give_the_same_bytes(name, tmp_path):
    """Whatever memory held before: x264 reads some that it has not set, with B-frames."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 255, (8, 20, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    contents = set()
    for _ in range(4):
        with VideoWriter(tmp_path / name, 25) as video:
            for k in range(6):
                video.write(np.roll(ground, (k, 3 * k), axis=(0, 1)))
                for size in rng.integers(1, 400_000, 60):
                    rng.integers(0, 255, size, np.uint8)
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "фильм.webm"])
def test_round_trip(name, tmp_path):
    path = tmp_path / name
    colour = np.full((48, 64, 3), (200, 80, 40), np.uint8)
    write_video(path, [colour, *gray_frames(4)], rate=12.5)
    assert list(tmp_path.iterdir()) == [path]
    frames = read_frames(path)
    assert (frames.count, frames.rate) == (5, 12.5)
    first, *others = frames
    assert (first.dtype, first.shape) == (np.uint8, (48, 64, 3))
    assert np.abs(first.mean((0, 1)) - (200, 80, 40)).max() < 6
    assert numbers(others) == [0, 1, 2, 3]
    assert frames.skipped == []


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("a.mp4", "h264", "yuv420p"), ("a.avi", "mjpeg", "yuvj420p"), ("a.webm", "vp9", "yuv420p")],
)
def test_codecs_and_rates(name, codec, pixels, tmp_path):
    import av

    write_video(tmp_path / name, gray_frames(2), rate=30000 / 1001)
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name.replace("libvpx-", ""), stream.pix_fmt) == (codec, pixels)
        assert float(stream.guessed_rate) == pytest.approx(30000 / 1001, rel=1e-5)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.webm"])
def test_odd_sizes_are_extended_by_the_edge(name, tmp_path):
    frame = np.zeros((47, 65, 3), np.uint8)
    frame[:, -1] = frame[-1] = 255
    write_video(tmp_path / name, [frame] * 2)
    back = next(iter(read_frames(tmp_path / name)))
    assert back.shape == (48, 66, 3)
    assert back[:, -1].min() > 150
    assert back[-1].min() > 150


def test_start_stop_stride(clip):
    assert numbers(read_frames(clip, start=2, stop=7, stride=2)) == [2, 4, 6]
    frames = read_frames(clip, start=1, stride=3)
    assert (frames.count, frames.rate) == (3, pytest.approx(10 / 3))
    assert numbers(frames) == numbers(frames) == [1, 4, 7]  # iterating again opens it again
    assert numbers(read_frames(clip, stop=100)) == list(range(8))
    with pytest.raises(ValueError, match=r"clip\.avi could be read: it ends before frame 20"):
        list(read_frames(clip, start=20))


def test_scale(clip):
    assert next(iter(read_frames(clip, scale=0.5))).shape == (24, 32, 3)
    assert next(iter(read_frames(clip, scale=2))).shape == (96, 128, 3)


def test_corrupt_frame_in_the_middle(clip):
    content = bytearray(clip.read_bytes())
    start, size = chunks(content)[3]
    content[start : start + size] = bytes(size)
    clip.write_bytes(content)
    frames = read_frames(clip)
    assert numbers(frames) == [0, 1, 2, 4, 5, 6, 7]
    assert [str(skipped) for skipped in frames.skipped] == ["frame 3: cannot be decoded"]
    assert numbers(frames) == [0, 1, 2, 4, 5, 6, 7]
    assert len(frames.skipped) == 1


def test_truncated_video(clip):
    content = clip.read_bytes()
    clip.write_bytes(content[: chunks(content)[5][0] - 8])
    frames = read_frames(clip)
    assert numbers(frames) == [0, 1, 2, 3, 4]
    assert frames.count == 8  # the container's word
    assert [skipped.index for skipped in frames.skipped] == [5]
    assert "claims 8 frames" in frames.skipped[0].reason


def test_nothing_readable(clip, tmp_path):
    content = bytearray(clip.read_bytes())
    for start, size in chunks(content):
        content[start : start + size] = bytes(size)
    clip.write_bytes(content)
    with pytest.raises(ValueError, match=r"no frame of .*clip\.avi could be read: frame 0"):
        list(read_frames(clip))
    (tmp_path / "text.mp4").write_text("this is not a video")
    with pytest.raises(ValueError, match=r"text\.mp4 is neither a video"):
        read_frames(tmp_path / "text.mp4")


# ---- folders, patterns, lists --------------------------------------------------------------------


def test_folder_in_natural_order(folder):
    frames = read_frames(folder)
    assert (frames.count, frames.rate) == (7, None)
    assert numbers(frames) == list(range(7))
    assert numbers(read_frames(str(folder), start=1, stop=6, stride=2)) == [1, 3, 5]


def test_pattern_and_list(folder, monkeypatch):
    assert numbers(read_frames(f"{folder}/frame1?.png")) == [5, 6]
    monkeypatch.chdir(folder)
    assert numbers(read_frames("*.png", start=5)) == [5, 6]
    assert numbers(read_frames(["frame11.png", folder / "frame5.png"])) == [6, 0]
    assert numbers(read_frames("frame5.png")) == [0]
    with pytest.raises(FileNotFoundError, match=r"no file matches \*\.jpg"):
        read_frames("*.jpg")
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_frames(["frame5.png", "none.png"])


@pytest.mark.parametrize("source", ["", "*.png"], ids=["folder", "pattern"])
def test_a_link_to_nowhere_keeps_its_number(source, folder):
    """Frames of git-annex or DVC that were not fetched: the flow must not span two steps."""
    (folder / "frame7.png").unlink()
    (folder / "frame7.png").symlink_to("/annex/object")
    frames = read_frames(folder / source)
    assert [number for number, _ in frames.numbered()] == [0, 1, 3, 4, 5, 6]
    assert [skipped.index for skipped in frames.skipped] == [2]
    assert "frame7.png does not exist" in frames.skipped[0].reason
    assert len(frames.digest()) == 16


def test_brackets_in_names(tmp_path, monkeypatch):
    folder = tmp_path / "[take 1]" / "sub"
    folder.mkdir(parents=True)
    for k, frame in enumerate(gray_frames(3, 6, 8)):
        write_image(folder / f"[{k}].png", frame)
    monkeypatch.chdir(tmp_path)
    for source in (folder, folder / "*.png", "[take 1]/*/*.png", "[take 1]/s*/[[]?].png"):
        assert numbers(read_frames(source)) == [0, 1, 2]
    assert numbers(read_frames("[take 1]/sub/[1].png")) == [1]
    with pytest.raises(FileNotFoundError, match="none.png does not exist"):
        read_frames("[take 1]/sub/none.png")


def test_corrupt_and_odd_pictures_are_skipped(folder):
    (folder / "frame6.png").write_bytes((folder / "frame6.png").read_bytes()[:-20])
    write_image(folder / "frame8.png", np.zeros((5, 9, 3), np.uint8))
    frames = read_frames(folder)
    assert numbers(frames) == [0, 2, 4, 5, 6]
    assert [skipped.index for skipped in frames.skipped] == [1, 3]
    assert "frame6.png is damaged" in frames.skipped[0].reason
    assert frames.skipped[1].reason == "9 x 5 pixels, the first frame has 8 x 6"


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.tif"])
def test_pages_and_animations(name, tmp_path):
    from PIL import Image

    first, *others = (Image.fromarray(np.roll(f, k)) for k, f in enumerate(gray_frames(12)))
    options = {"lossless": True} if name == "a.webp" else {}
    first.save(tmp_path / name, save_all=True, append_images=others * 2, **options)
    frames = read_frames(tmp_path / name)
    assert frames.count == 23
    assert numbers(frames) == [*range(12), *range(1, 12)]
    assert numbers(read_frames(tmp_path / name, start=3, stop=20, stride=5)) == [3, 8, 2, 7]
    assert frames.skipped == []


def test_wrong_sources_are_errors(tmp_path):
    with pytest.raises(ValueError, match="holds no pictures"):
        read_frames(tmp_path)
    with pytest.raises(ValueError, match="the list of pictures holds no pictures"):
        read_frames([])
    with pytest.raises(FileNotFoundError, match="none.mp4 does not exist"):
        read_frames(tmp_path / "none.mp4")
    with pytest.raises(OSError, match="camera 63 cannot be opened"):
        read_frames(63)


@pytest.mark.parametrize(
    "arguments",
    [
        {"start": -1},
        {"stride": 0},
        {"start": 3, "stop": 3},
        {"scale": 0},
        {"scale": np.nan},
        {"reconnect": -1},
    ],
    ids=str,
)
def test_wrong_arguments_are_errors(arguments, folder):
    with pytest.raises(ValueError, match="got"):
        read_frames(folder, **arguments)


# ---- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_a_failure_leaves_no_file(name, tmp_path):
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path / name, 10) as video:
        video.write(gray_frames(1)[0])
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="64 x 48 pixels like the first, got 50 x 48"):
        write_video(tmp_path / name, gray_frames(1) + gray_frames(1, width=50))
    with pytest.raises(ValueError, match="no frame was written"):
        write_video(tmp_path / name, [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rate", [0.5, 240])
def test_unusual_rates(rate, tmp_path):
    write_video(tmp_path / "a.mp4", gray_frames(4), rate)
    assert read_frames(tmp_path / "a.mp4").rate == rate


def test_errors_of_the_encoder_are_told(tmp_path):
    """The package av has exceptions of its own."""
    with pytest.raises(ValueError, match="a.mp4: H.264 holds no frames of 16400 x 32 pixels"):
        write_video(tmp_path / "a.mp4", gray_frames(1, 32, 16400))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.webm"])
@pytest.mark.parametrize("size", [(1, 1), (33, 1), (2, 3), (16, 16384), (16, 70000), (70000, 2)])
def test_sizes_are_checked_before_writing(name, size, tmp_path):
    """OpenCV's encoder of Motion JPEG wrote beyond its memory in frames below 5 pixels."""
    writer = VideoWriter(tmp_path / name, 25)
    if max(size) == 70000:
        with pytest.raises(ValueError, match=f"{size[1]} x {size[0]} pixels at 25 frames"):
            writer.check_size(*size)
        with pytest.raises(ValueError, match=f"{size[1]} x {size[0]} pixels at 10 frames"):
            write_video(tmp_path / name, [np.zeros((*size, 3), np.uint8)])
        assert not list(tmp_path.iterdir())
    else:
        writer.check_size(*size)
        assert not list(tmp_path.iterdir())
        write_video(tmp_path / name, [np.full((*size, 3), 90, np.uint8)] * 2)
        back = list(read_frames(tmp_path / name))
        assert [frame.shape[:2] for frame in back] == [tuple(side + side % 2 for side in size)] * 2
        assert np.abs(np.stack(back).astype(int) - 90).max() <= 6


def test_names_that_begin_like_protocols(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("2024-01-02T12:30:05.mp4", "rtmp:1.avi", "file:a.webm", "%d.mp4"):
        write_video(name, gray_frames(3))
        assert numbers(read_frames(name)) == [0, 1, 2]


def test_wrong_input_of_the_writer_is_an_error(tmp_path):
    frame = gray_frames(1)[0]
    with pytest.raises(ValueError, match=r"\.mp4, \.avi, \.webm, got '\.mov'"):
        VideoWriter(tmp_path / "a.mov", 10)
    for rate in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="frames per second"):
            VideoWriter(tmp_path / "a.avi", rate)
    for wrong in (frame / 255, frame[..., 0], frame[:0]):
        with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
            write_video(tmp_path / "a.avi", [wrong])
    with pytest.raises(ValueError, match="inside `with"):
        VideoWriter(tmp_path / "a.avi", 10).write(frame)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8(tmp_path):
    for k in range(2):
        write_image(tmp_path / "a.png", np.full((8, 8, 3), k, np.uint8))
        (tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/%d\xff.png" % k))
    frames = read_frames(tmp_path)
    assert len(frames.digest()) == 16
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 1]
