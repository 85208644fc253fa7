"""Files of tensors: round trips, and files that claim more than they hold."""

import io
import tracemalloc
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from flowmatch.tensor_files import (
    encode_safetensors,
    read_metadata,
    read_safetensors,
    read_saved,
    write_saved,
)

SIX = torch.arange(6.0)


def saved(modern):
    file = io.BytesIO()
    torch.save({"a": SIX}, file, _use_new_zipfile_serialization=modern)
    return file.getvalue()


@pytest.mark.parametrize("modern", [True, False])
def test_files_of_torch_save(modern, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(saved(modern))
    assert torch.equal(read_saved(path)["a"], SIX)
    path.write_bytes(saved(modern)[:-40])
    with pytest.raises(ValueError, match=r"a\.pth is not a complete file of tensors only: .+"):
        read_saved(path)


def test_old_files_that_claim_more_numbers_than_they_have(tmp_path):
    """The number is in the pickle: PyTorch takes memory for it before it reads the numbers."""
    path = tmp_path / "a.pth"
    path.write_bytes(saved(False).replace(b"K\x06", b"\x8a\x05\x00\x00\x00\x00\x10", 1))  # 2**36
    with pytest.raises(ValueError, match="it claims 274877906944 bytes of numbers|memory"):
        read_saved(path)


def test_records_are_not_read_beyond_their_end(tmp_path):
    source = zipfile.ZipFile(io.BytesIO(saved(True)))
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name).replace(b"K\x06", b"M\xff\xff"))
    with pytest.raises(ValueError, match=r"a\.pth is not a complete file of tensors only"):
        read_saved(tmp_path / "a.pth")


def test_writing_leaves_a_whole_file_or_none(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    write_saved(path, {"a": SIX})
    assert torch.equal(read_saved(path)["a"], SIX)

    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"a\.pt cannot be written: .*; is the disk full\?"):
        write_saved(path, {"a": SIX + 1})
    assert torch.equal(read_saved(path)["a"], SIX)
    assert list(tmp_path.iterdir()) == [path]


def test_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": SIX}, path, {"model": "b"})
    tensors, metadata = read_safetensors(path)
    assert torch.equal(tensors["a"], SIX)
    assert metadata == read_metadata(path) == {"model": "b"}
    path.write_bytes(path.read_bytes()[:-1])
    for read in (read_safetensors, read_metadata):
        with pytest.raises(ValueError, match=r"a\.safetensors is not a whole \.safetensors file"):
            read(path)
    save_file({"a": SIX.to(torch.float8_e5m2)}, path)
    with pytest.raises(ValueError, match=r"'a' is of type F8_E5M2, expected one of F64, "):
        read_safetensors(path)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(3, dtype=torch.int16)}
    metadata = {f"key {i} \u00e4": "x" * i for i in range(6)}
    files = {encode_safetensors(tensors, metadata) for _ in range(8)}
    assert len(files) == 1
    (tmp_path / "a.safetensors").write_bytes(files.pop())
    read, words = read_safetensors(tmp_path / "a.safetensors")
    assert words == metadata
    assert all(torch.equal(read[key], tensor) for key, tensor in tensors.items())


def test_saved_files_have_the_same_bytes(tmp_path):
    """An interrupted training run ends with the bits of a whole one."""
    for name in ("a.pt", "b.pt"):
        write_saved(tmp_path / name, {"a": SIX, "step": 3})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_old_files_that_claim_a_long_text(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"\x80\x02X" + (2**27).to_bytes(4, "little") + b"abc")
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.pth is not a complete file"):
        read_saved(tmp_path / "a.pth")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
