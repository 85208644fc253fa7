"""Datasets on disk: loose pairs, masks, and files that do not fit."""

import numpy as np
import pytest

from flowmatch.flow.data.datasets import FlowPair, find_pairs, load_pair
from flowmatch.io import write_flow, write_image

H, W = 3, 4


def picture(path, value=0, size=(H, W)):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((*size, 3), value, np.uint8))
    return path


def field(path, value=1.0, size=(H, W)):
    path.parent.mkdir(parents=True, exist_ok=True)
    flow = np.broadcast_to(np.asarray(value, float), size)
    write_flow(path, np.stack([flow, flow], axis=2))
    return path


def pair_in(folder, flow="flow.flo", first="frame1.png", second="frame2.png"):
    picture(folder / first, 10)
    picture(folder / second, 20)
    field(folder / flow)
    return folder


def test_loose_pairs_at_any_depth(tmp_path):
    pair_in(tmp_path / "b" / "deep" / "er", "flow.npz", first="frame1.jpg", second="FRAME2.PNG")
    pair_in(tmp_path / "a", "flow.pfm")
    picture(tmp_path / "a" / "occ.png")
    picture(tmp_path / "a" / "invalid.png")
    (tmp_path / "notes.txt").touch()
    first, second = find_pairs(tmp_path)
    a = tmp_path / "a"
    assert first == FlowPair(
        name="a",
        sequence="a",
        first=a / "frame1.png",
        second=a / "frame2.png",
        flow=a / "flow.pfm",
        occluded=a / "occ.png",
        invalid=a / "invalid.png",
    )
    assert (second.name, second.sequence) == ("b/deep/er", "b/deep/er")
    assert (second.first.name, second.second.name) == ("frame1.jpg", "FRAME2.PNG")
    assert (second.occluded, second.invalid) == (None, None)


@pytest.mark.parametrize("suffix", [".flo", ".png", ".pfm", ".npz", ".flo5"])
def test_the_folder_itself_may_be_the_pair(suffix, tmp_path):
    folder = pair_in(tmp_path / "sofa", f"flow{suffix}")
    (pair,) = find_pairs(str(folder))
    assert pair.name == "sofa"
    first, second, truth, occluded = load_pair(pair)
    assert (first[0, 0, 0], second[0, 0, 0]) == (10, 20)
    np.testing.assert_array_equal(truth, np.ones((H, W, 2)))
    assert occluded is None


def test_a_picture_of_the_flow_is_not_taken_for_it(tmp_path):
    pair_in(tmp_path)
    picture(tmp_path / "flow.png")
    assert find_pairs(tmp_path)[0].flow.name == "flow.flo"


@pytest.mark.parametrize("missing", ["frame1", "frame2", "flow"])
def test_an_incomplete_pair_is_listed_and_says_what_is_missing(missing, tmp_path):
    folder = pair_in(tmp_path / "half")
    next(folder.glob(f"{missing}.*")).unlink()
    pair_in(tmp_path / "whole")
    half, whole = find_pairs(tmp_path)
    assert (half.name, whole.name) == ("half", "whole")
    with pytest.raises(FileNotFoundError, match=rf"half.{missing}\.\* does not exist"):
        load_pair(half)


def test_links_are_followed_but_not_for_ever(tmp_path):
    pair_in(tmp_path / "elsewhere" / "one")
    root = tmp_path / "root"
    root.mkdir()
    try:
        (root / "linked").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "back").symlink_to(root)
    except OSError:
        pytest.skip("this file system has no symbolic links")
    assert [pair.name for pair in find_pairs(root)] == ["linked/one"]


# ---- What is not a dataset, and files that do not fit ------------------------------------------


def test_nothing_found_says_what_was_looked_for(tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.jpg").touch()
    with pytest.raises(
        ValueError, match=r"Middlebury.*Sintel.*KITTI.*FlyingChairs.*frame1"
    ) as told:
        find_pairs(tmp_path)
    assert str(tmp_path) in str(told.value)


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_not_a_folder(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=f"{name} is not a folder"):
        find_pairs(tmp_path / name)


def test_masks_are_white_where_true(tmp_path):
    pair_in(tmp_path)
    write_image(tmp_path / "occ.png", np.array([[0, 127, 128, 255]] * H, np.uint8))
    write_image(tmp_path / "invalid.png", np.array([[255, 128, 127, 0]] * H, np.uint8))
    loaded = load_pair(find_pairs(tmp_path)[0])
    np.testing.assert_array_equal(loaded.occluded, [[False, False, True, True]] * H)
    unknown = np.isnan(loaded.truth)
    np.testing.assert_array_equal(unknown[..., 0], [[True, True, False, False]] * H)
    np.testing.assert_array_equal(unknown[..., 1], unknown[..., 0])


@pytest.mark.parametrize("name", ["frame2.png", "occ.png", "invalid.png", "flow.flo"])
def test_sizes_must_agree(name, tmp_path):
    pair_in(tmp_path)
    make = field if name == "flow.flo" else picture
    make(tmp_path / name, 1, size=(H, W + 1))
    with pytest.raises(ValueError, match=rf"{name}: expected 4 x 3 pixels .* got 5 x 3"):
        load_pair(find_pairs(tmp_path)[0])


def test_all_invalid(tmp_path):
    pair_in(tmp_path)
    picture(tmp_path / "invalid.png", 255)
    with pytest.raises(ValueError, match=r"flow\.flo: no pixel has a known flow"):
        load_pair(find_pairs(tmp_path)[0])


def test_lying_files_raise_and_name_themselves(tmp_path):
    pair_in(tmp_path)
    (tmp_path / "flow.flo").write_bytes(b"PIEH" + b"\xff" * 8)
    with pytest.raises(ValueError, match=r"flow\.flo"):
        load_pair(find_pairs(tmp_path)[0])


def test_development_data(shared_data):
    pairs = find_pairs(shared_data / "flow")
    assert {"middlebury/Venus", "sintel/alley_1", "kitti/000010"} <= {pair.name for pair in pairs}
    (sintel,) = find_pairs(shared_data / "flow" / "sintel" / "market_5")
    loaded = load_pair(sintel)
    assert loaded.first.shape == (436, 1024, 3)
    assert 0 < loaded.occluded.mean() < 0.5
