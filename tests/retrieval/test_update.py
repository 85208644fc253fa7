"""Updates of an index: only new images are described, and interrupted work is kept."""

import numpy as np
import pytest
import torch

from flowmatch.io import write_image
from flowmatch.io._lock import only_writer
from flowmatch.retrieval import (
    IndexUpdate,
    VladOptions,
    build_index,
    read_index,
    search,
    update_index,
)


def test_only_what_is_new_is_described(folder, tmp_path, mean_colour):
    path = tmp_path / "i.safetensors"
    update_index(folder, path, mean_colour())
    again = mean_colour()
    update, calls = IndexUpdate(folder, path, again), []
    index = update.run(lambda *call: calls.append(call))
    assert again.calls == 0 and again.fitted == 3
    assert calls == [("index", 4, 4)]
    assert index.report is update.report
    assert vars(update.report) == {"total": 4, "described": 0, "kept": 4, "removed": 0, "failed": 0}
    write_image(folder / "red.png", np.full((30, 40, 3), (0, 200, 200), np.uint8))
    write_image(folder / "broken.jpg", np.full((8, 8, 3), (200, 200, 0), np.uint8))
    (folder / "green.png").unlink()
    third = mean_colour()
    index = update_index(folder, path, third)
    assert third.calls == 2 and not index.failed
    assert vars(index.report) == {"total": 3, "described": 2, "kept": 1, "removed": 2, "failed": 0}
    names = [entry.name for entry in read_index(path).entries]
    assert names == ["more/blue.png", "broken.jpg", "red.png"]
    colour = read_index(path).descriptors[names.index("red.png")]
    torch.testing.assert_close(colour.float(), torch.tensor([0, 0.7071, 0.7071]), atol=1e-3, rtol=0)


def test_progress(folder, tmp_path, mean_colour):
    calls = []
    update_index(folder, None, mean_colour(), progress=lambda *call: calls.append(call))
    vocabulary = [("vocabulary", k, 4) for k in range(1, 5)]
    assert calls == [*vocabulary, *(("index", k, 4) for k in range(5))]


def test_an_interrupted_update_continues(folder, tmp_path, mean_colour):
    path = tmp_path / "i.safetensors"

    class Interrupted(mean_colour):
        def __call__(self, image):
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().__call__(image)

    update = IndexUpdate(folder, path, Interrupted())
    with pytest.raises(KeyboardInterrupt):
        update.run()
    assert update.report.described == 2
    assert len(read_index(path).entries) == 2
    rest = mean_colour()
    assert len(update_index(folder, path, rest).entries) == 3
    assert rest.calls == 1


def test_two_runs_do_not_write_one_index(folder, tmp_path, mean_colour):
    path = tmp_path / "index.safetensors"
    with only_writer(path), pytest.raises(BlockingIOError, match="another run is writing .*index"):
        update_index(folder, path, mean_colour())
    assert not path.exists()
    update_index(folder, path, mean_colour())
    assert path.exists()


def test_refuses_another_describer_folder_or_name(folder, tmp_path, mean_colour):
    path = tmp_path / "i.safetensors"
    update_index(folder, path, mean_colour())
    other = mean_colour()
    other.about = "median colour"
    with pytest.raises(ValueError, match="made by 'mean colour'"):
        update_index(folder, path, other)
    assert update_index(folder, path, other, overwrite=True).about == "median colour"
    with pytest.raises(ValueError, match="is about"):
        update_index(folder / "more", path, other)
    with pytest.raises(ValueError, match=r"\.safetensors"):
        update_index(folder, tmp_path / "i.npz", other)
    with pytest.raises(FileNotFoundError, match="no folder"):
        update_index(folder / "none", path, other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="contains no images"):
        update_index(tmp_path / "empty", path, other)


def test_images_without_content_are_failures(folder, tmp_path, mean_colour):
    write_image(folder / "blank.png", np.zeros((8, 9, 3), np.uint8))
    index = update_index(folder, tmp_path / "i.safetensors", mean_colour())
    assert [entry.name for entry in index.entries] == ["green.png", "more/blue.png", "red.png"]
    assert [(entry.name, reason) for entry, reason in index.failed][0] == (
        "blank.png",
        "nothing in it can be described",
    )


def texture(seed):
    return np.kron(
        np.random.default_rng(seed).integers(0, 255, (12, 12), np.uint8), np.ones((8, 8), np.uint8)
    )


def test_build_index_and_search(tmp_path):
    (tmp_path / "images").mkdir()
    for k in range(3):
        write_image(tmp_path / "images" / f"{k}.png", texture(k))
    path, options = tmp_path / "i.safetensors", VladOptions(words=4, keypoints=50)
    index = build_index(tmp_path / "images", path, model="rootsift", options=options)
    assert index.about == "vlad rootsift words=4 keypoints=50 side=640 seed=0"
    assert vars(index.report) == {"total": 3, "described": 3, "kept": 0, "removed": 0, "failed": 0}
    assert read_index(path).descriptors.equal(index.descriptors)
    in_memory = build_index(tmp_path / "images", model="rootsift", options=options)
    assert in_memory.descriptors.equal(index.descriptors)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["i.safetensors", "images"]
    for source in (path, str(path), in_memory):
        first, *others = search(source, texture(1), count=2)
        assert first.name == "1.png" and first.score == pytest.approx(1, abs=1e-3)
        assert len(others) == 1 and others[0].score < 0.9
    assert (
        build_index(tmp_path / "images", path, model="rootsift", options=options).report.kept == 3
    )
    with pytest.raises(ValueError, match="made by 'vlad rootsift words=4 .* not by 'vlad sift"):
        build_index(tmp_path / "images", path, model="sift", options=options)
