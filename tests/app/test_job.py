"""Jobs: a task in another process, its progress, its errors, and its end."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import flowmatch as fm
from flowmatch.app.job import Job, Progress, run_job
from flowmatch.app.tasks import TaskResult, alignment_of_pictures


def sleep(seconds, progress):
    for step in range(1, 1001):
        progress("sleeping", step, 1000)
        time.sleep(seconds / 1000)
    return TaskResult("slept")


def sleep_silently(progress):
    time.sleep(1000)


def note(progress):
    warnings.warn_explicit("one page is read", UserWarning, "flowmatch/io/image.py", 1)
    warnings.warn_explicit("not for users", UserWarning, "numpy/core.py", 1)
    return TaskResult("noted", notes=("first",))


def fail(error, progress):
    raise error


def crash(progress):
    os.abort()


def run(task, time_limit=100, **arguments):
    *updates, result = run_job(task, arguments, time_limit)
    assert all(isinstance(update, Progress) for update in updates)
    return result


def test_result_comes_from_the_other_process(tmp_path):
    path = tmp_path / "a.png"
    fm.io.write_image(path, np.zeros((40, 60, 3), np.uint8))
    result = run(alignment_of_pictures, first=path, second=path, folder=tmp_path, model="identity")
    assert result.trusted
    assert [file.name for file in result.files] == [
        "warped.png", "checkerboard.png", "transform.json",
    ]  # fmt: skip
    assert all(file.exists() for file in result.files)


def test_warnings_of_the_package_are_notes():
    assert run(note).notes == ("first", "one page is read")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("a.png is damaged"), "a.png is damaged"),
        (FileNotFoundError("there is no a.png"), "there is no a.png"),
        (MemoryError(), "there is not enough memory for files of this size"),
        (KeyError("x"), "internal error, please report it: KeyError: 'x'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_are_one_line(error, message):
    with pytest.raises(ValueError) as caught:
        run(fail, error=error)
    assert str(caught.value) == message


def test_a_crash_is_no_crash_of_the_server():
    with pytest.raises(RuntimeError, match="ended without a result"):
        run(crash)


def test_a_job_is_stopped_in_the_middle():
    job = Job(sleep, {"seconds": 1000})
    process = job._process.pid
    for progress in job.updates(0.05):
        if progress.stage == "sleeping":
            assert progress.total == 1000
            break
    assert is_running(process)
    job.stop()
    assert not is_running(process)


def test_closing_the_iteration_stops_the_job():
    updates = run_job(sleep, {"seconds": 1000}, 100)
    next(updates)
    updates.close()  # waits for the end of the process
    assert run(note).summary == "noted"


def test_a_job_ends_at_the_time_limit():
    with pytest.raises(ValueError, match=r"stopped after 0\.005 minutes"):
        run(sleep, time_limit=0.3, seconds=1000)


def test_a_job_ends_with_a_server_that_is_killed():
    code = (
        "import os; from tests.app.test_job import Job, sleep_silently\n"
        "job = Job(sleep_silently, {}); next(job.updates())\n"
        "print(job._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert run.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while is_running(int(run.stdout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(run.stdout))


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
