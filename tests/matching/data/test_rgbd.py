"""Patches of RGB-D frames: on a plane, depth and poses give the true homography."""

import numpy as np
import pytest

from flowmatch._opencv import cv2
from flowmatch.io import write_image
from flowmatch.matching.data.rgbd import Frame, PosedPatches, reproject
from flowmatch.matching.evaluation.metrics import project
from flowmatch.matching.keypoints import detect_keypoints
from flowmatch.matching.networks import MODELS
from flowmatch.matching.synthetic.pairs import SyntheticPatches
from flowmatch.matching.synthetic.views import project_keypoints
from flowmatch.matching.training.recipes import RECIPES
from flowmatch.matching.training.train import build_samples

CAMERA = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
SIZE = (240, 320)
DISTANCE = 2.0  # metres, from the first camera to a plane across its axis


def pose(turn=0.0, x=0.0):
    matrix = np.eye(4)
    matrix[:3, :3] = cv2.Rodrigues(np.array([0.0, turn, 0.0]))[0]
    matrix[:3, 3] = x, 0.05, 0
    return matrix


def to_image(pose):
    """Return the homography from metres on the plane to pixels."""
    inverse = np.linalg.inv(pose)
    origin = DISTANCE * inverse[:3, 2] + inverse[:3, 3]
    return CAMERA @ np.column_stack([inverse[:3, 0], inverse[:3, 1], origin])


def frame(photo, pose):
    texture = np.array([[0.006, 0, -1.35], [0, 0.006, -0.9], [0, 0, 1]])  # from pixels to metres
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    image = cv2.warpPerspective(gray, to_image(pose) @ texture, SIZE[::-1])
    v, u = np.mgrid[: SIZE[0], : SIZE[1]]
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(CAMERA).T
    depth = (DISTANCE - pose[2, 3]) / (rays @ pose[2, :3])
    return Frame(image, depth.astype(np.float32), pose)


POSES = pose(), pose(-0.3, 0.5)


@pytest.fixture(scope="module")
def frames(photo):
    return [frame(photo, pose) for pose in POSES]


@pytest.fixture
def folder(tmp_path, frames):
    for name in ("color", "depth"):
        (tmp_path / name).mkdir()
    lines = []
    for number, one in enumerate(frames):
        write_image(tmp_path / "color" / f"{number}.png", one.gray)
        depth = np.round(1000 * one.depth).astype(np.uint16)
        assert cv2.imwrite(str(tmp_path / "depth" / f"{number}.png"), depth)
        lines.append(" ".join([str(number), *map(str, one.pose.ravel().tolist())]))
    (tmp_path / "poses.txt").write_text("\n".join(lines))
    np.savetxt(tmp_path / "intrinsics.txt", CAMERA)
    return tmp_path


def test_reproject_is_the_homography_of_a_plane(frames):
    first, second = frames
    keypoints = detect_keypoints(first.gray, keypoints=300)
    projected, valid = reproject(keypoints, first, second, CAMERA)
    between = to_image(POSES[1]) @ np.linalg.inv(to_image(POSES[0]))
    expected = project_keypoints(keypoints, between)
    x, y = expected.xy.T
    deep = (x > 1) & (x < SIZE[1] - 2) & (y > 1) & (y < SIZE[0] - 2)
    assert valid.sum() > 50
    assert not valid[(x < -1) | (x > SIZE[1])].any()
    border = (keypoints.xy < 6).any(axis=1) | (keypoints.xy > np.array(SIZE[::-1]) - 7).any(axis=1)
    assert valid[deep & ~border].all()
    # Depth is read at the nearest pixel, at most half a pixel away.
    assert np.abs(projected.xy[valid] - expected.xy[valid]).max() < 0.3
    np.testing.assert_allclose(projected.scale[valid], expected.scale[valid], rtol=0.05)
    turned = np.angle(np.exp(1j * (projected.angle - expected.angle)))[valid]
    assert np.abs(turned).max() < 0.05


def test_occluded_keypoints_are_invalid(frames):
    first, second = frames
    keypoints = detect_keypoints(first.gray, keypoints=300)
    projected, valid = reproject(keypoints, first, second, CAMERA)
    depth = second.depth.copy()
    depth[:, :160] = 1.0  # an occluding surface
    _, left = reproject(keypoints, first, second._replace(depth=depth), CAMERA)
    assert np.array_equal(left, valid & (np.rint(projected.xy[:, 0]) >= 160))
    depth[:] = np.nan
    assert not reproject(keypoints, first, second._replace(depth=depth), CAMERA)[1].any()
    edge = first.depth.copy()
    edge[:, 160:] += 0.2
    _, smooth = reproject(keypoints, first._replace(depth=edge), second, CAMERA)
    x = keypoints.xy[:, 0]
    assert (valid & (np.abs(x - 160) < 3)).any()
    assert np.array_equal(smooth, valid & (x < 155.5))


def test_pairs(folder):
    patches = PosedPatches(folder=folder, points=24, pool=2, reuse=1, seed=1)
    pairs = patches[0]
    assert pairs.first.shape == pairs.second.shape == (24, 32, 32)
    views = patches.views(0)
    first, second = views.keypoints
    between = to_image(POSES[1]) @ np.linalg.inv(to_image(POSES[0]))
    off = np.hypot(*(project(first.xy, between) - second.xy).T)
    assert len(off) >= 24
    assert np.median(off) < 1.5
    # World coordinates in centimetres, on the plane.
    assert (views.location[:, 0] == 0).all()
    np.testing.assert_allclose(views.location[:, 3], 100 * DISTANCE, atol=0.2)
    assert all((a == b).all() for a, b in zip(pairs, patches[0], strict=True))


def test_sources_of_training(folder, photo):
    recipe = RECIPES["2ch"]
    network = MODELS["2ch"](**recipe.arguments)
    alone = build_samples(recipe, [], network, folder)
    assert isinstance(alone, PosedPatches)
    assert (alone.size, alone.points, alone.magnification) == (64, recipe.points, 12)
    both = build_samples(recipe, [photo], network, folder)
    kinds = [type(source).__name__ for source in both.sources]
    assert kinds == ["SyntheticPatches", "SyntheticPatches", "PosedPatches"]
    nothing = build_samples(recipe, [], network)
    assert isinstance(nothing, SyntheticPatches)


def test_bad_folders(folder):
    with pytest.raises(FileNotFoundError, match="poses.txt does not exist"):
        PosedPatches(folder=folder / "color")
    write_image(folder / "color" / "0.png", np.zeros((10, 10), np.uint8))
    with pytest.raises(ValueError, match=r"0.png: expected an image of the size of its depth"):
        PosedPatches(folder=folder).views(0)
    text = (folder / "poses.txt").read_text().splitlines()
    (folder / "poses.txt").write_text(text[0])
    with pytest.raises(ValueError, match="expected frames with poses, got 1"):
        PosedPatches(folder=folder)
    far = pose(0.0, 3.0).ravel().tolist()
    (folder / "poses.txt").write_text(text[0] + "\n" + " ".join(["1", *map(str, far)]))
    with pytest.raises(ValueError, match="expected frames with overlapping views"):
        PosedPatches(folder=folder).views(0)
