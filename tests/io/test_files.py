"""Files that appear only when complete, and the names in their errors."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from flowmatch.io import _files as files
from flowmatch.io import replace_when_done, write_image


def test_failure_while_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.flo"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replace_when_done(path) as temporary:
        temporary.write_bytes(b"half of the new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (OSError, lambda temporary: (errno.ENOENT, "No such file", str(temporary))),
        (PermissionError, lambda temporary: (errno.EACCES, "Permission denied", str(temporary))),
        (OSError, lambda temporary: (errno.ENOSPC, "No space left on device")),
        (OSError, lambda temporary: (f"unable to create {temporary}",)),
    ],
    ids=["missing", "permission", "full", "text"],
)
def test_an_error_names_the_target_not_the_temporary_file(kind, arguments, tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(kind, match=r"a\.png cannot be written: ") as error:  # noqa: PT012, SIM117
        with replace_when_done(path) as temporary:
            raise OSError(*arguments(temporary))
    assert temporary.name not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_errors_of_other_files_are_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError, match="other"), replace_when_done(tmp_path / "a.png"):
        (tmp_path / "other").read_bytes()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and devices of POSIX")
def test_devices_and_pipes_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link.json").symlink_to("pipe.json")
    (tmp_path / "null.json").symlink_to("/dev/null")
    before = {file.name: file.lstat() for file in tmp_path.iterdir()}
    for name in before:
        with (
            pytest.raises(OSError, match=f"{name} cannot be written: it is a device or a pipe"),
            replace_when_done(tmp_path / name) as temporary,
        ):
            temporary.write_text("{}")
    assert {file.name: file.lstat() for file in tmp_path.iterdir()} == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and devices of POSIX")
@pytest.mark.parametrize("path", ["/dev/null", "/dev/stdout", "/dev/new.json", "/proc/self/fd/1"])
def test_the_system_is_left_alone(path):
    # The block fails, so that nothing is renamed should the check be missing: root could.
    with pytest.raises(OSError, match="cannot be written"), replace_when_done(path):
        raise AssertionError("the block was entered")


def test_a_missing_folder_and_a_folder_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_image(tmp_path / "none" / "a.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(IsADirectoryError, match="is a folder"), replace_when_done(tmp_path):
        pass


HALF = """
import sys, time
from flowmatch.io import replace_when_done
with replace_when_done(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(100)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, monkeypatch):
    process = subprocess.Popen(
        [sys.executable, "-c", HALF, str(tmp_path / "a.txt")], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    for name in (".other-deadbeef-1-0123456789abcdef.txt", ".flowmatch-mine.txt"):
        (tmp_path / name).write_text("of the user")
    assert len(list(tmp_path.iterdir())) == 3
    write_image(tmp_path / "b.png", np.zeros((2, 2), np.uint8))
    assert len(list(tmp_path.iterdir())) == 4  # the other process lives
    process.send_signal(signal.SIGKILL)
    process.communicate()
    monkeypatch.setattr(files, "_looked_at", set())
    write_image(tmp_path / "b.png", np.zeros((2, 2), np.uint8))
    assert {file.name for file in tmp_path.iterdir()} == {
        "b.png", ".other-deadbeef-1-0123456789abcdef.txt", ".flowmatch-mine.txt",
    }  # fmt: skip


def test_what_another_machine_left_is_removed_after_a_day(tmp_path, monkeypatch):
    old = tmp_path / ".flowmatch-00000000-1-0123456789abcdef.flo"
    new = tmp_path / ".flowmatch-00000000-2-0123456789abcdef.flo"
    old.write_text("old")
    new.write_text("new")
    os.utime(old, (time.time() - 90_000,) * 2)
    monkeypatch.setattr(files, "_looked_at", set())
    write_image(tmp_path / "b.png", np.zeros((2, 2), np.uint8))
    assert not old.exists()
    assert new.exists()


TERMINATED = """
import sys, time
import typer
from flowmatch import cli
from flowmatch.io import replace_when_done

def work(path: str) -> None:
    with replace_when_done(path) as temporary:
        temporary.write_text("half")
        print("writing", flush=True)
        time.sleep(100)

cli.program = typer.Typer()
cli.program.command()(work)
sys.exit(cli.main([sys.argv[1]]))
"""


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_sigterm_ends_a_command_without_temporary_files(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINATED, str(tmp_path / "a.txt")], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not list(tmp_path.iterdir())


def test_messages_of_the_operating_system_have_no_number(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError) as error:
        missing.read_bytes()
    assert files.message_of(error.value) == f"{missing}: no such file or directory"
    assert files.message_of(OSError("not one of its own")) == "not one of its own"
    assert files.message_of(ValueError("of no file")) == "of no file"
