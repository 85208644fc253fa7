"""Files that appear only when complete, and the names in their errors."""

import errno

import numpy as np
import pytest

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


def test_a_missing_folder_and_a_folder_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_image(tmp_path / "none" / "a.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(IsADirectoryError, match="is a folder"), replace_when_done(tmp_path):
        pass
