"""Layouts of public datasets, as their authors unpack them, complete and in part."""

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


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_middlebury(tmp_path):
    for scene in ("Venus", "Grove2"):
        for name in ("frame10.png", "frame11.png"):
            touch(tmp_path / "other-data" / scene / name)
        touch(tmp_path / "other-gt-flow" / scene / "flow10.flo")
    # Urban2 is in the other archive only, and Walking has no true flow.
    touch(tmp_path / "other-color-allframes" / "Urban2" / "frame10.png")
    touch(tmp_path / "other-gt-flow" / "Urban2" / "flow10.flo")
    touch(tmp_path / "other-data" / "Walking" / "frame10.png")
    pairs = {pair.name: pair for pair in find_pairs(tmp_path)}
    assert list(pairs) == ["Grove2", "Urban2", "Venus", "Walking"]
    assert pairs["Grove2"] == FlowPair(
        name="Grove2",
        sequence="Grove2",
        first=tmp_path / "other-data" / "Grove2" / "frame10.png",
        second=tmp_path / "other-data" / "Grove2" / "frame11.png",
        flow=tmp_path / "other-gt-flow" / "Grove2" / "flow10.flo",
    )
    assert pairs["Urban2"].first.parent.parent.name == "other-color-allframes"
    with pytest.raises(ValueError, match="empty"):  # the files of this test are
        load_pair(pairs["Grove2"])


@pytest.mark.parametrize("below", ["", "training"])
def test_sintel(below, tmp_path):
    training = tmp_path / "training"
    for render in ("clean", "final"):
        for index in (1, 2, 3):
            touch(training / render / "alley_1" / f"frame_{index:04d}.png")
    for index in (1, 2):
        touch(training / "flow" / "alley_1" / f"frame_{index:04d}.flo")
    touch(training / "occlusions" / "alley_1" / "frame_0001.png")
    touch(training / "invalid" / "alley_1" / "frame_0001.png")
    touch(training / "flow_viz" / "alley_1" / "frame_0001.png")
    pairs = find_pairs(tmp_path / below)
    assert [pair.name for pair in pairs] == [
        f"{render}/alley_1/frame_000{index}" for render in ("clean", "final") for index in (1, 2)
    ]
    assert pairs[2] == FlowPair(
        name="final/alley_1/frame_0001",
        sequence="final/alley_1",
        first=training / "final" / "alley_1" / "frame_0001.png",
        second=training / "final" / "alley_1" / "frame_0002.png",
        flow=training / "flow" / "alley_1" / "frame_0001.flo",
        occluded=training / "occlusions" / "alley_1" / "frame_0001.png",
        invalid=training / "invalid" / "alley_1" / "frame_0001.png",
    )
    assert pairs[3].occluded is None


def test_sintel_with_gaps_lists_what_is_incomplete(tmp_path):
    for index in (1, 2, 4):
        touch(tmp_path / "final" / "cave_2" / f"frame_{index:04d}.png")
    for index in (2, 9):
        touch(tmp_path / "flow" / "cave_2" / f"frame_{index:04d}.flo")
    pairs = find_pairs(tmp_path)
    missing = {
        pair.name[-1]: [path.name for path in pair[2:5] if not path.exists()] for pair in pairs
    }
    assert missing == {
        "1": ["frame_0001.flo"],
        "2": ["frame_0003.png"],
        "9": ["frame_0009.png", "frame_0010.png"],
    }


@pytest.mark.parametrize(
    ("camera", "sequence"),
    [("image_2", "KITTI 2015"), ("colored_0", "KITTI 2012"), ("image_0", "KITTI 2012")],
)
@pytest.mark.parametrize("below", ["", "training"])
def test_kitti(camera, sequence, below, tmp_path):
    training = tmp_path / "training"
    picture(training / camera / "000010_10.png")
    picture(training / camera / "000010_11.png")
    field(training / "flow_occ" / "000010_10.png", [[np.nan, 1, 1, 1]] * H)
    field(training / "flow_noc" / "000010_10.png", [[np.nan, np.nan, 1, 1]] * H)
    touch(training / camera / "000010_09.png")  # the multi-view extension
    touch(training / camera / "000012_10.png")
    pair, incomplete = find_pairs(tmp_path / below)
    assert (pair.name, pair.sequence) == ("000010", sequence)
    assert (incomplete.name, incomplete.flow.exists()) == ("000012", False)
    loaded = load_pair(pair)
    np.testing.assert_array_equal(loaded.occluded, [[False, True, False, False]] * H)
    np.testing.assert_array_equal(np.isnan(loaded.truth[..., 0]), [[True, False, False, False]] * H)


def test_kitti_without_occlusion(tmp_path):
    for name in ("000000_10.png", "000000_11.png"):
        picture(tmp_path / "image_2" / name)
    field(tmp_path / "flow_noc" / "000000_10.png")
    (pair,) = find_pairs(tmp_path)
    assert (pair.flow.parent.name, pair.flow_noc) == ("flow_noc", None)
    assert load_pair(pair).occluded is None


def chairs(data, *numbers):
    for number in numbers:
        for part in ("img1.ppm", "img2.ppm", "flow.flo"):
            touch(data / f"{number:05d}_{part}")


@pytest.mark.parametrize("below", ["", "data"])
def test_flying_chairs(below, tmp_path):
    data = tmp_path / "data"
    chairs(data, 1, 2, 3)
    (data / "00002_flow.flo").unlink()
    pairs = find_pairs(tmp_path / below)
    assert [pair.name for pair in pairs] == ["00001", "00002", "00003"]
    assert pairs[0] == FlowPair(
        name="00001",
        sequence="FlyingChairs",
        first=data / "00001_img1.ppm",
        second=data / "00001_img2.ppm",
        flow=data / "00001_flow.flo",
    )


@pytest.mark.parametrize("place", ["", "data"])
@pytest.mark.parametrize("below", ["", "data"])
def test_flying_chairs_validates_on_its_own_split(place, below, tmp_path):
    chairs(tmp_path / "data", 1, 2, 3)
    (tmp_path / place / "FlyingChairs_train_val.txt").write_text("1\n2\n2\n1\n")
    pairs = find_pairs(tmp_path / below)
    assert [pair.name for pair in pairs] == ["00002", "00003"]
    assert pairs[0].sequence == "FlyingChairs validation"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\n", "each pair up to 00003, got 2 lines"),
        ("1\n2\n3\n", r"got 3 lines of \['1', '2', '3'\]"),
        ("\x89PNG", "expected a line of 1 or 2"),
        ("1\n1\n1\n", "none of the 3 pairs is marked 2"),
    ],
)
def test_flying_chairs_split_that_lies(text, message, tmp_path):
    chairs(tmp_path / "data", 1, 2, 3)
    (tmp_path / "FlyingChairs_train_val.txt").write_text(text, "latin-1")
    with pytest.raises(ValueError, match=message):
        find_pairs(tmp_path)


def test_flying_chairs_trains_on_the_other_half(tmp_path):
    chairs(tmp_path / "data", 1, 2, 3)
    (tmp_path / "FlyingChairs_train_val.txt").write_text("1\n2\n1\n")
    assert [pair.name for pair in find_pairs(tmp_path, train=True)] == ["00001", "00003"]
    assert [pair.name for pair in find_pairs(tmp_path)] == ["00002"]


def test_flying_things(tmp_path):
    scene = "A/0003"
    for n in (6, 7, 8):
        picture(tmp_path / f"frames_cleanpass/TRAIN/{scene}/left/{n:04d}.png", n)
        for way, name in (("into_future", "Future"), ("into_past", "Past")):
            flow = tmp_path / f"optical_flow/TRAIN/{scene}/{way}/left"
            field(flow / f"OpticalFlowInto{name}_{n:04d}_L.pfm", n)
    pairs = {pair.name: pair for pair in find_pairs(tmp_path)}
    assert sorted(name.split("/", 3)[3] for name in pairs) == [
        "into_future/left/0006", "into_future/left/0007",
        "into_past/left/0007", "into_past/left/0008",
    ]  # fmt: skip
    past = load_pair(pairs[f"frames_cleanpass/{scene}/into_past/left/0008"])
    assert (past.first[0, 0, 0], past.second[0, 0, 0], past.truth[0, 0, 0]) == (8, 7, 8)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize(
    ("direction", "names", "complete"),
    [("future", ["0006", "0007", "0008"], ["0006"]), ("past", ["0009", "0008", "0007"], [])],
)
def test_flying_things_lists_pairs_with_a_missing_file(
    direction, names, complete, suffix, tmp_path
):
    frames = tmp_path / "frames_cleanpass/TRAIN/A/0000/left"
    flows = tmp_path / f"optical_flow/TRAIN/A/0000/into_{direction}/left"
    for number in (6, 7, 9):
        picture(frames / f"{number:04d}{suffix}")
    for number in (6, 8, 9):
        field(flows / f"OpticalFlowInto{direction.capitalize()}_{number:04d}_L.pfm")
    pairs = find_pairs(tmp_path)
    assert [pair.name[-4:] for pair in pairs] == names
    assert {pair.first.name for pair in pairs} >= {f"0007{suffix}", "0008.png"}
    for pair in pairs:
        if pair.name[-4:] in complete:
            load_pair(pair)
            continue
        with pytest.raises(FileNotFoundError, match="0007_L.pfm|0008.png"):
            load_pair(pair)


@pytest.mark.parametrize("missing", ["hd1k_input/image_2", "hd1k_flow_gt/flow_occ"])
def test_hd1k_lists_pairs_with_a_missing_file(missing, tmp_path):
    for number in range(4):
        name = f"000000_{number:04d}.png"
        picture(tmp_path / "hd1k_input/image_2" / name)
        field(tmp_path / "hd1k_flow_gt/flow_occ" / name)
    (tmp_path / missing / "000000_0002.png").unlink()
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["000000_0000", "000000_0001", "000000_0002"]
    with pytest.raises(FileNotFoundError, match="000000_0002.png"):
        load_pair(pairs[2])


def test_hd1k(tmp_path):
    for sequence, number in ((0, 0), (0, 1), (0, 2), (1, 7)):
        name = f"{sequence:06d}_{number:04d}.png"
        picture(tmp_path / "hd1k_input/image_2" / name, 10 * number)
        field(tmp_path / "hd1k_flow_gt/flow_occ" / name, number)
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["000000_0000", "000000_0001"]
    assert {pair.sequence for pair in pairs} == {"HD1K/000000"}
    second = load_pair(pairs[1])
    assert (second.first[0, 0, 0], second.second[0, 0, 0], second.truth[0, 0, 0]) == (10, 20, 1)
