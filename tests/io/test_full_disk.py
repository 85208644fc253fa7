"""Full disks, for which a limit on the size of files stands: an error, and no file that is cut."""

import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import flowmatch
from flowmatch.io import (
    VideoWriter,
    read_frames,
    replace_when_done,
    write_cloud,
    write_flow,
    write_image,
)
from flowmatch.io import _files as files

resource = pytest.importorskip("resource")

RNG = np.random.default_rng(0)
FLOW = RNG.normal(size=(60, 51, 2)).astype(np.float32)
POINTS = RNG.normal(size=(2000, 3)).astype(np.float32)
PICTURE = RNG.integers(0, 256, (60, 50, 3), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (2000, 3), dtype=np.uint8)


def write_clip(path):
    with VideoWriter(path, 25) as video:
        for k in range(12):
            video.write(np.roll(PICTURE, 7 * k, axis=1))


WRITERS = {
    **{f"a{s}": lambda path: write_flow(path, FLOW) for s in (".flo", ".pfm", ".npz", ".flo5")},
    "b.flo": lambda path: write_flow(path, FLOW.transpose(1, 0, 2)),
    "a.png": lambda path: write_image(path, PICTURE),
    **{f"c{s}": lambda path: write_cloud(path, POINTS) for s in (".ply", ".pcd", ".npy", ".xyz")},
    "d.ply": lambda path: write_cloud(path, POINTS, COLOURS),
}


@contextmanager
def limit(size):
    """Let no file grow beyond a number of bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_whole_or_not_there(name, tmp_path):
    path = tmp_path / name
    if path.suffix == ".flo5":
        pytest.importorskip("h5py")
    WRITERS[name](path)
    whole = path.read_bytes()
    path.unlink()
    for missing in (1, 8, 500, len(whole) - 40):
        with pytest.raises(OSError, match="cannot be written"), limit(len(whole) - missing):
            WRITERS[name](path)
        assert not list(tmp_path.iterdir()), missing
    with limit(len(whole)):
        WRITERS[name](path)
    assert path.read_bytes() == whole


def test_errors_that_come_late_keep_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"a\.png cannot be written: No space left on device"):
        write_image(path, PICTURE)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_storage_without_fsync_is_written_to(tmp_path, monkeypatch):
    def unknown(_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(files.os, "fsync", unknown)
    with replace_when_done(tmp_path / "a.txt") as temporary:
        temporary.write_text("a")
    assert (tmp_path / "a.txt").read_text() == "a"


def test_no_writer_loses_errors():
    """`tofile` and `np.save` of an open file do not report that a disk is full."""
    for module in Path(flowmatch.__file__).parent.rglob("*.py"):
        text = module.read_text(encoding="utf-8")
        assert ".tofile(" not in text.replace("``ndarray.tofile``", ""), module
        assert "np.save(file" not in text, module


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.webm"])
def test_a_video_is_whole_or_not_there(name, tmp_path):
    path = tmp_path / name
    write_clip(path)
    size = path.stat().st_size
    path.unlink()
    for limited in (10, size // 3, size - 1000, size - 8):
        with pytest.raises(OSError, match=r"cannot (be written|write)"), limit(limited):
            write_clip(path)
        assert not list(tmp_path.iterdir()), limited
    with limit(size + 100_000):
        write_clip(path)
    assert len(list(read_frames(path))) == 12
