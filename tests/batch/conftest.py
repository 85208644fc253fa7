"""Small clips, and one run over them in this process."""

import hashlib

import numpy as np
import pytest

from flowmatch.batch import ClipOptions, write_clips
from flowmatch.flow import FlowOptions, SequenceOptions
from flowmatch.io import VideoWriter

OPTIONS = ClipOptions(SequenceOptions(FlowOptions(quality="fast")), model="pyramid")
NAMES = ["monday/street", "sunday/street", "sunday/tree", "sunday/wood"]
FRAMES = 4


def write_clip(path, photo, speed, frames=FRAMES):
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, 10) as video:
        for k in range(frames):
            moved = np.roll(photo, speed * k, axis=1)[60:124, 60:156]
            video.write(np.ascontiguousarray(moved))


@pytest.fixture(scope="package")
def clips(tmp_path_factory, photo):
    """Return the files of four clips of four frames, two of one name."""
    folder = tmp_path_factory.mktemp("clips")
    files = [folder / f"{name}.mp4" for name in NAMES]
    for speed, file in enumerate(files, 1):
        write_clip(file, photo, speed)
    return files


@pytest.fixture(scope="package")
def serial(clips, tmp_path_factory):
    """Return the output of a run in this process."""
    output = tmp_path_factory.mktemp("serial") / "out"
    report = write_clips(clips, output, options=OPTIONS, device="cpu")
    assert (report.clips, report.pairs, report.failed) == (4, 12, [])
    return output


def digests(folder):
    """Return a hash of each file of a folder."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
