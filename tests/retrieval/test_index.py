"""Index files: they come back unchanged, and damaged ones are rejected."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowmatch.retrieval import read_index, update_index


def test_round_trip(folder, tmp_path, mean_colour):
    made = update_index(folder, tmp_path / "i.safetensors", mean_colour())
    assert [entry.name for entry in made.entries] == ["green.png", "more/blue.png", "red.png"]
    index = read_index(tmp_path / "i.safetensors")
    assert index.entries == made.entries
    assert index.root.resolve() == folder.resolve()
    assert index.descriptors.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert index.state["fitted"].tolist() == [3]
    [(entry, reason)] = index.failed
    assert entry.name == "broken.jpg" and "not an image" in reason
    # The folder and the index can be moved together.
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    folder.rename(moved / "pictures")
    (tmp_path / "i.safetensors").rename(moved / "i.safetensors")
    assert read_index(moved / "i.safetensors").root.resolve() == (moved / "pictures").resolve()


def damage(path, change):
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(size))["__metadata__"]
    content = json.loads(metadata["content"])
    tensors = load_file(path)
    change(content, tensors)
    save_file(tensors, path, metadata | {"content": json.dumps(content)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, t: c.pop("root"), "damaged index"),
        (lambda c, t: c["files"].pop(), "must be float16"),
        (lambda c, t: c["files"][0].pop(), "damaged index"),
        (lambda c, t: c["files"][0].__setitem__(0, "../../secret.png"), "outside"),
        (lambda c, t: c["files"][0].__setitem__(0, "/secret.png"), "outside"),
        (lambda c, t: c["files"][0].__setitem__(1, float("inf")), "damaged index"),
        (lambda c, t: t.pop("descriptors"), "damaged index"),
        (lambda c, t: t["descriptors"].fill_(torch.nan), "not finite"),
        (lambda c, t: t.__setitem__("descriptors", torch.zeros(3, 3)), "must be float16"),
    ],
)
def test_damaged_contents(folder, tmp_path, mean_colour, change, message):
    path = tmp_path / "i.safetensors"
    update_index(folder, path, mean_colour())
    damage(path, change)
    with pytest.raises(ValueError, match=message):
        read_index(path)


def test_other_files(tmp_path):
    path = tmp_path / "i.safetensors"
    for content in (b"", b"\xff" * 64, b"{}"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a whole .safetensors file"):
            read_index(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="is not an index"):
        read_index(path)
    with pytest.raises(FileNotFoundError):
        read_index(tmp_path / "none.safetensors")


def test_truncated_file(folder, tmp_path, mean_colour):
    path = tmp_path / "i.safetensors"
    update_index(folder, path, mean_colour())
    whole = path.read_bytes()
    for length in (4, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a whole .safetensors file"):
            read_index(path)
