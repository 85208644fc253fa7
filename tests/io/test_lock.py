import os
import signal
import time

import numpy as np
import pytest

from flowmatch.flow import SequenceOptions, write_sequence
from flowmatch.io import read_frames, write_image
from flowmatch.io._lock import only_writer

pytest.importorskip("fcntl")


def in_child(work):
    """Run a function in a child process, and return its number."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def test_a_second_run_is_refused(tmp_path):
    path = tmp_path / "run.json"
    with only_writer(path):
        assert [file.name for file in tmp_path.iterdir()] == [".flowmatch-run.json.lock"]
        message = r"another run is writing .*run\.json: wait"
        with pytest.raises(BlockingIOError, match=message), only_writer(path):
            pass
        with only_writer(tmp_path / "other.json"):
            pass
    assert not list(tmp_path.iterdir())
    with only_writer(path):
        pass


def test_a_killed_run_leaves_no_lock(tmp_path):
    path = tmp_path / "run.json"

    def hold():
        with only_writer(path):
            (tmp_path / "holds").touch()
            time.sleep(60)

    child = in_child(hold)
    while not (tmp_path / "holds").exists():
        time.sleep(0.01)
    with pytest.raises(BlockingIOError), only_writer(path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with only_writer(path):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["holds"]


def test_the_lock_ends_with_the_process_that_took_it(tmp_path):
    """Workers of a killed run may live for some seconds; the run can be started again at once."""
    with only_writer(tmp_path / "run.json"):
        child = in_child(lambda: time.sleep(60))
    try:
        with only_writer(tmp_path / "run.json"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folders_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    with only_writer(tmp_path / "run.json"):
        pass


def test_two_sequences_into_one_folder(tmp_path):
    for k in range(3):
        write_image(tmp_path / f"{k}.png", np.full((20, 24, 3), 60 * k, np.uint8))
    frames, messages = read_frames([tmp_path / f"{k}.png" for k in range(3)]), []

    def again(stage, done, total):
        other = SequenceOptions(suffix=".npz")
        with pytest.raises(BlockingIOError, match=r"another run is writing .*run\.json") as error:
            write_sequence(frames, tmp_path / "out", options=other)
        messages.append(str(error.value))

    write_sequence(frames, tmp_path / "out", progress=again)
    assert len(messages) == 2
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["000000.flo", "000001.flo", "run.json"]
