import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flowmatch.selfsupervised.patches import TrackedPatches, load_patches, save_patches
from flowmatch.selfsupervised.tracks import Track, find_tracks


def track(first, last, x, *, y=0, every=5, grey=0):
    frames = list(range(first, last))
    boxes = [(float(x), float(y), 10.0, 20.0)] * len(frames)
    kept = {n: np.full((8, 8, 3), grey, np.uint8) for n in frames if n % every == 0}
    return Track(frames, boxes, kept)


@pytest.fixture
def patches():
    # Tracks 0 and 1 coexist without overlap, 3 overlaps 2, which is later; the next one has a
    # single patch; the last is in another video.
    first = [track(0, 20, 0), track(0, 20, 50), track(20, 40, 0), track(20, 40, 9)]
    return TrackedPatches.from_tracks([[*first, track(21, 29, 200)], [track(0, 20, 0)]])


def test_tracks_that_certainly_differ(patches):
    assert patches.tracks == 5 and len(patches) == 20
    different = patches.different()
    expected = np.zeros((5, 5), bool)
    for a, b in ((0, 1), (0, 4), (1, 4), (2, 4), (3, 4)):
        expected[a, b] = expected[b, a] = True
    assert (different == expected).all()


def test_patches_confirmed_by_another_tracker(patches):
    # The other tracker follows 0 with an offset, loses 1 early, and follows 3 before 2 ends.
    others = [
        [track(0, 20, 2), track(0, 3, 50), track(10, 40, 9)],
        [track(0, 11, 0, y=3)],
    ]
    kept = patches.confirmed_by(others)
    assert kept.tracks == 3
    assert [int((kept.track == i).sum()) for i in range(3)] == [4, 4, 3]
    assert kept.box[kept.track == 1][0, 0] == 9  # that was 3
    assert kept.clip.tolist() == [0] * 8 + [1] * 3
    with pytest.raises(ValueError, match="agree on no moving object"):
        patches.confirmed_by([[], []])


def test_files_round_trip(patches, tmp_path):
    path = tmp_path / "mined.safetensors"
    save_patches(path, patches, "clip 1")
    loaded = load_patches(path, "clip 1")
    for name in ("patches", "track", "clip", "frame", "box"):
        assert np.array_equal(getattr(loaded, name), getattr(patches, name))
    with pytest.raises(ValueError, match="mined from other videos"):
        load_patches(path, "clip 2")
    with pytest.raises(FileNotFoundError, match="no file of patches"):
        load_patches(tmp_path / "none.safetensors", "clip 1")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a (whole )?(file of patches|.safetensors file)"):
        load_patches(path, "clip 1")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("patches", torch.zeros(20, 8, 7, 3, dtype=torch.uint8)),
        ("patches", torch.zeros(20, 8, 8, 3)),
        ("track", torch.full((20,), 3)),
        ("track", torch.zeros(19, dtype=torch.int64)),
        ("box", torch.zeros(20, 3)),
    ],
)
def test_files_that_do_not_fit_are_refused(patches, tmp_path, name, wrong):
    path = tmp_path / "mined.safetensors"
    save_patches(path, patches, "clip")
    tensors = load_file(path)
    tensors[name] = wrong
    save_file(tensors, path, {"tracks": json.dumps("clip")})
    with pytest.raises(ValueError, match="does not hold patches and as many boxes"):
        load_patches(path, "clip")


def test_tracks_of_a_clip(moving):
    frames, flow, _ = moving
    tracked = TrackedPatches.from_tracks([find_tracks(frames, flow)])
    assert tracked.tracks == 2 and tracked.different().tolist() == [[False, True], [True, False]]
    with pytest.raises(ValueError, match="no moving object could be tracked"):
        TrackedPatches.from_tracks([[]])
