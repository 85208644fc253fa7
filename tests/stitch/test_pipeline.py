"""Panoramas compared with the picture that was photographed."""

from dataclasses import replace
from itertools import permutations

import cv2
import numpy as np
import pytest

from flowmatch.io import write_image
from flowmatch.matching import MatchOptions, match_images
from flowmatch.stitch import (
    StitchOptions,
    estimate,
    find_cameras,
    largest_rectangle,
    read_cameras,
    render_panorama,
    render_panoramas,
    stitch_photos,
)

from .conftest import ANGLES, FOCAL, take, turn

PLANE = StitchOptions(projection="plane")
LEVEL = StitchOptions(projection="plane", wave="none")


def error_to_truth(panorama, truth):
    """Return the mean absolute difference of pixels after alignment with the true picture."""
    matches = match_images(
        truth,
        panorama.image,
        model="rootsift",
        options=MatchOptions(keypoints=3000, threshold=1.0),
    )
    assert matches.inliers.sum() > 150
    H, W = panorama.image.shape[:2]
    aligned = cv2.warpPerspective(truth, matches.matrix, (W, H))
    known = cv2.warpPerspective(np.ones(truth.shape[:2], np.uint8), matches.matrix, (W, H)) > 0
    known &= panorama.mask
    assert known.sum() > 0.85 * panorama.mask.sum()
    return np.abs(aligned.astype(float) - panorama.image)[known].mean()


@pytest.fixture(scope="module")
def panorama(photos):
    return stitch_photos(photos, options=LEVEL)


def test_panorama_equals_the_picture(panorama, scene):
    assert panorama.image.shape[1] > 500
    assert panorama.mask.all()
    # A photo has half the resolution of the picture; blurring by as much differs by 2.
    assert error_to_truth(panorama, cv2.blur(scene, (2, 2))) < 4


def test_cameras_equal_the_true_ones(panorama):
    cameras = panorama.cameras.cameras
    assert panorama.cameras.error < 0.5
    assert panorama.cameras.names == ["photo 1", "photo 2", "photo 3"]
    for camera in cameras:
        assert camera.focal == pytest.approx(FOCAL, rel=0.03)
        assert camera.size == (320, 240)
    truth = [turn(*angles) for angles in ANGLES]
    for k in (0, 2):
        relative = cameras[1].matrix.T @ cameras[k].matrix
        error = relative.T @ truth[1].T @ truth[k]
        assert np.degrees(np.arccos((np.trace(error) - 1) / 2)) < 0.5


def test_order_does_not_matter(photos, panorama):
    for order in permutations(range(3)):
        again = stitch_photos([photos[k] for k in order], options=LEVEL)
        np.testing.assert_array_equal(again.image, panorama.image)
        for place, k in enumerate(order):
            actual, expected = again.cameras.cameras[place], panorama.cameras.cameras[k]
            np.testing.assert_array_equal(actual.matrix, expected.matrix)
            assert actual.focal == expected.focal


def test_every_projection_and_choice(photos, panorama):
    for choices in (
        {}, {"projection": "cylindrical", "seams": "dp", "exposure": "gain"},
        {"projection": "mercator", "seams": "graphcut_grad", "exposure": "channels"},
        {"projection": "panini", "seams": "dp_grad", "exposure": "channel_blocks",
         "blend": "feather"},
        {"projection": "stereographic", "seams": "voronoi", "exposure": "none", "blend": "none"},
        {"projection": "fisheye", "seams": "none"}, {"projection": "rectilinear"},
    ):  # fmt: skip
        options = StitchOptions(**choices)
        result = render_panorama(photos, panorama.cameras, options=options)
        H, W = result.image.shape[:2]
        assert min(H, W) > 180 and 400 < max(H, W) < 1200, options
        # The mean colour of the panorama that was compared with the picture.
        assert abs(result.image.mean() - panorama.image.mean()) < 12, options


def test_two_panoramas_and_unrelated_photos(photos, other_photos):
    from skimage import data

    unrelated = np.ascontiguousarray(data.chelsea()[:240, :320])
    blank = np.full((240, 320, 3), 128, np.uint8)
    mixed = [other_photos[0], photos[2], unrelated, photos[0], blank, other_photos[1], photos[1]]
    result = stitch_photos(mixed, options=PLANE)
    assert result.cameras.names == ["photo 2", "photo 4", "photo 7"]
    (other,) = result.others
    assert other.cameras.names == ["photo 1", "photo 6"]
    reasons = dict(result.left_out)
    assert list(reasons) == ["photo 3", "photo 5"]
    assert reasons["photo 5"] == "no keypoints: it is blank, blurred or too small"
    assert "overlaps" in reasons["photo 3"] and "best with photo" in reasons["photo 3"]
    assert "inliers" in reasons["photo 3"]


def test_exposure_is_compensated(scene):
    photos = [take(scene, turn(-6)), take(scene, turn(6), gain=0.6)]
    truth = cv2.blur(scene, (2, 2)).astype(float)
    steps = {}
    for exposure in ("none", "gain", "blocks"):
        options = StitchOptions(
            projection="plane", exposure=exposure, blend="none", seams="voronoi", wave="none"
        )
        image = stitch_photos(photos, options=options).image
        matches = match_images(
            truth.astype(np.uint8), image, model="rootsift", options=MatchOptions(threshold=1.0)
        )
        aligned = cv2.warpPerspective(truth, matches.matrix, image.shape[1::-1])
        brightness = (image.sum(axis=2) + 10.0) / (aligned.sum(axis=2) + 10)
        W = image.shape[1]
        left, right = brightness[:, W // 2 - 60 : W // 2], brightness[:, W // 2 : W // 2 + 60]
        # Brightness on the left relative to the right: at the seam, and at both ends.
        ends = np.median(brightness[:, : W // 4]) / np.median(brightness[:, -W // 4 :])
        steps[exposure] = np.median(left) / np.median(right), ends
    assert min(steps["none"]) > 1.5
    np.testing.assert_allclose(steps["gain"], 1, atol=0.12)
    assert abs(steps["blocks"][0] - 1) < 0.15


def test_affine_scans(other_scene):
    turned = cv2.getRotationMatrix2D((0, 0), 8, 1.0)
    turned[:, 2] += (-430, -60)
    second = cv2.warpAffine(other_scene, turned, (500, 420))
    scans = [other_scene[100:520, 100:600], second]
    result = stitch_photos(scans, options=StitchOptions(motion="affine", crop=False))
    assert result.cameras.motion == "affine"
    assert error_to_truth(result, other_scene) < 3
    a, b = (camera.matrix for camera in result.cameras.cameras)
    first = np.array([[1, 0, -100], [0, 1, -100], [0, 0, 1]])
    truth = first @ np.linalg.inv(np.vstack([turned, [0, 0, 1]]))
    np.testing.assert_allclose(np.linalg.inv(a) @ b, truth, atol=0.5)


def test_scans_without_the_option(other_scene):
    """Pure shifts do not determine a focal length; a panorama is made all the same."""
    scans = [other_scene[100:500, x : x + 500] for x in (100, 350)]
    result = stitch_photos(scans, options=StitchOptions(crop=False))
    assert error_to_truth(result, other_scene) < 3


def test_reduced_photos(photos, panorama):
    options = StitchOptions(projection="plane", megapixels=0.02, crop=False)
    small = render_panorama(photos, panorama.cameras, options=options)
    full = render_panorama(
        photos, panorama.cameras, options=StitchOptions(projection="plane", crop=False)
    )
    ratio = (0.02e6 / (320 * 240)) ** 0.5
    assert small.image.shape[1] == pytest.approx(full.image.shape[1] * ratio, abs=3)


@pytest.mark.parametrize("crop", [True, False])
def test_longer_side_is_limited(photos, panorama, crop):
    options = StitchOptions(projection="plane", crop=crop, max_side=300)
    small = render_panorama(photos, panorama.cameras, options=options).image
    assert 0.93 * 300 <= max(small.shape) <= 300
    large = render_panorama(photos, panorama.cameras, options=replace(options, max_side=5000))
    same = render_panorama(photos, panorama.cameras, options=replace(options, max_side=None))
    np.testing.assert_array_equal(large.image, same.image)


def test_preview(photos, panorama):
    options = replace(LEVEL, crop=False).preview()
    assert (options.keypoints, options.keypoint_megapixels, options.megapixels) == (1500, 0.2, 0.1)
    result = stitch_photos(
        [cv2.resize(photo, None, fx=4, fy=4) for photo in photos], options=options
    )
    scale = (0.1e6 / (320 * 240)) ** 0.5
    assert result.image.shape[1] == pytest.approx(panorama.uncropped.shape[1] * scale, rel=0.03)
    assert result.cameras.cameras[0].size == (1280, 960)


def test_errors(photos, tmp_path):
    with pytest.raises(FileNotFoundError, match="nosuch.jpg does not exist"):
        stitch_photos([tmp_path / "nosuch.jpg"])
    with pytest.raises(ValueError, match="at least two photos, got 1"):
        stitch_photos(photos[:1])
    with pytest.raises(ValueError, match="no two of the 2 photos .* best with .* confidence"):
        stitch_photos([photos[0], photos[2][:, ::-1]])
    with pytest.raises(ValueError, match="photo 2 must be uint8 .* got float64"):
        stitch_photos([photos[0], photos[1] / 255.0])
    with pytest.raises(ValueError, match="surf"):
        stitch_photos(photos, model="surf")
    assert not any(tmp_path.iterdir())


def test_cameras_come_back_from_their_file(photos, panorama, tmp_path):
    file = tmp_path / "rig.json"
    panorama.cameras.write(file)
    again = render_panorama(photos, read_cameras(file), options=PLANE)
    np.testing.assert_array_equal(again.image, panorama.image)
    # Cameras are assigned by order if names do not match, also at another resolution.
    large = [cv2.resize(photo, None, fx=2, fy=2) for photo in photos]
    double = render_panorama(large, read_cameras(file), options=PLANE)
    assert double.image.shape[1] == pytest.approx(2 * again.image.shape[1], abs=6)
    small = cv2.resize(double.image, again.image.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(float) - again.image).mean() < 8


def test_cameras_of_a_rig_take_other_photos(panorama, other_scene):
    others = [take(other_scene, turn(*angles)) for angles in ANGLES]
    result = render_panorama(others, panorama.cameras, options=PLANE)
    assert result.image.shape == panorama.image.shape
    assert error_to_truth(result, cv2.blur(other_scene, (2, 2))) < 5
    with pytest.raises(ValueError, match=r"3 cameras \(photo 1, photo 2, photo 3\), got 2 photos"):
        render_panorama(others[:2], panorama.cameras)
    with pytest.raises(ValueError, match="320 x 240 pixels, .* got 200 x 240"):
        render_panorama([photo[:, :200] for photo in others], panorama.cameras)


def test_when_no_rotating_camera_fits(photos, monkeypatch):
    """Photos are placed as scans, with a message; if that fails too, the reason is given."""

    def failing(*_):
        raise ValueError("out of luck")

    monkeypatch.setattr(estimate, "adjust_rotations", failing)
    result = stitch_photos(photos, options=StitchOptions(crop=False))
    assert result.cameras.motion == "affine"
    (message,) = result.messages
    assert message.startswith(
        "no rotating camera fits, so photos are placed as scans (rotation: out of luck; affine: "
    )
    monkeypatch.setattr(estimate, "adjust_scans", failing)
    with pytest.raises(ValueError, match="photo 1: no cameras were found .rotation: out of luck"):
        stitch_photos(photos)


def test_a_photo_stored_rotated_does_not_tilt_the_horizon(photos, panorama):
    result = stitch_photos([*photos[:2], np.rot90(photos[2])])
    assert result.messages == ()
    axes = np.array([camera.matrix for camera in result.cameras.cameras])
    assert np.abs(axes[:, 1, 2]).max() < 0.2
    assert (axes[:2, 1, 1] > 0.99).all() and abs(axes[2, 1, 0]) > 0.99
    H, W = panorama.image.shape[:2]
    assert result.image.shape[:2] == pytest.approx((H, W), rel=0.1)
    assert stitch_photos(photos).messages == ()


def test_full_circle():
    """Twelve photos close the circle, which determines the focal length."""
    blobs = np.random.default_rng(0).integers(0, 256, (50, 200, 3), np.uint8)
    texture = cv2.resize(blobs, (1200, 300), interpolation=cv2.INTER_CUBIC)
    radius = texture.shape[1] / (2 * np.pi)
    u, v = np.meshgrid(np.arange(200) - 99.5, np.arange(150) - 74.5)
    photos = []
    for yaw in range(0, 360, 30):
        x, y, z = np.moveaxis(np.stack([u, v, np.full_like(u, 190)], -1) @ turn(yaw).T, -1, 0)
        column = (np.arctan2(x, z) * radius) % texture.shape[1]
        row = y / np.hypot(x, z) * radius + texture.shape[0] / 2
        sampled = cv2.remap(
            texture, column.astype(np.float32), row.astype(np.float32), cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )  # fmt: skip
        photos.append(cv2.resize(sampled, None, fx=2, fy=2))
    options = StitchOptions(keypoints=1000, seams="dp", neighbours=1)
    result = stitch_photos(photos, options=options)
    assert result.left_out == () and len(result.cameras.cameras) == 12
    assert [c.focal for c in result.cameras.cameras] == pytest.approx([380] * 12, rel=0.01)
    assert result.image.shape[1] == pytest.approx(2 * np.pi * 380, rel=0.02)
    H, W = result.image.shape[:2]
    assert f"<GPano:FullPanoWidthPixels>{W}</" in result.metadata.xmp
    # The photos look at the horizon, which is in the middle of a sphere.
    top = int(result.metadata.xmp.split("<GPano:CroppedAreaTopPixels>")[1].split("<")[0])
    assert top + H / 2 == pytest.approx(W / 4, abs=6)


def test_stages(photos, panorama):
    calls = []
    groups = find_cameras(photos, options=LEVEL, progress=lambda *call: calls.append(call))
    (group,) = groups.groups
    assert [photo.name for photo in group.photos] == group.cameras.names == panorama.cameras.names
    assert (len(groups.views), len(groups.pairs), groups.left_out) == (3, 3, ())
    assert calls == [(stage, k, 3) for stage in ("keypoints", "matches") for k in (1, 2, 3)]
    (result,) = render_panoramas(groups, options=LEVEL)
    np.testing.assert_array_equal(result.image, panorama.image)
    uncropped = render_panorama(photos, group.cameras, options=replace(LEVEL, crop=False))
    assert uncropped.image is uncropped.uncropped
    np.testing.assert_array_equal(uncropped.image, result.uncropped)
    assert not uncropped.mask.all()
    np.testing.assert_array_equal(
        largest_rectangle(uncropped.mask).cut(uncropped.image), result.image
    )


def test_groups_may_be_empty(photos):
    groups = find_cameras([photos[0], photos[2][:, ::-1]])
    assert groups.groups == () and len(groups.left_out) == 2
    with pytest.raises(ValueError, match="no two of the 2 photos make a panorama: photo 1: over"):
        render_panoramas(groups)


def test_photos_without_a_camera_are_left_out(photos, panorama, tmp_path):
    names = ["a.png", "b.png", "c.png", "d.png"]
    for name, photo in zip(names, [*photos, photos[0]], strict=True):
        write_image(tmp_path / name, photo)
    cameras = stitch_photos([tmp_path / name for name in names[:3]], options=LEVEL).cameras
    files = [tmp_path / name for name in ("d.png", "c.png", "a.png", "b.png")]
    result = render_panorama(files, cameras, options=LEVEL)
    np.testing.assert_array_equal(result.image, panorama.image)
    assert result.left_out == (("d.png", "it has no camera"),)


@pytest.mark.parametrize("seams", ["graphcut", "dp"])
def test_transparent_pixels_are_no_part_of_a_photo(photos, panorama, tmp_path, seams):
    """Holes are filled from the other photos, and change neither matches nor exposure."""
    files = []
    for k, photo in enumerate(photos):
        alpha = np.full((*photo.shape[:2], 1), 255, np.uint8)
        alpha[60:140, (130, 130, 110)[k] :][:, :70] = 0
        alpha[:, :15] = alpha[:, -15:] = 0
        files.append(tmp_path / f"{k}.png")
        bgra = np.where(alpha > 0, np.dstack([photo[..., ::-1], alpha]), 0)
        cv2.imwrite(str(files[-1]), bgra.astype(np.uint8))
    cameras = stitch_photos(files, options=replace(LEVEL, keypoint_megapixels=0.05)).cameras
    assert [camera.focal for camera in cameras.cameras] == pytest.approx([FOCAL] * 3, rel=0.03)
    options = replace(LEVEL, crop=False, seams=seams)
    whole = render_panorama(photos, panorama.cameras, options=options)
    result = render_panorama(files, panorama.cameras, options=options)
    H, W = result.image.shape[:2]
    assert whole.image.shape[0] == H and whole.image.shape[1] == W
    assert (result.mask & ~whole.mask).sum() == 0
    assert result.mask[60:-60, 40:-40].all()  # no hole is left
    difference = np.abs(result.image.astype(int) - whole.image)[result.mask]
    assert difference.mean() < 3 and np.quantile(difference, 0.99) < 20
    cropped = render_panorama(files, panorama.cameras, options=replace(options, crop=True))
    assert cropped.image.shape[1] > W - 80 and cropped.image.max(axis=2).min() > 0


def test_keypoints_keep_away_from_transparent_pixels(photos, tmp_path):
    rgba = np.dstack([photos[0][..., ::-1], np.full(photos[0].shape[:2], 255, np.uint8)])
    rgba[50:150, 100:200] = 0
    cv2.imwrite(str(tmp_path / "hole.png"), rgba)
    groups = find_cameras([tmp_path / "hole.png", photos[1]], options=LEVEL)
    (view,) = (view for view in groups.views if view.name == "hole.png")
    x, y = view.features.keypoints.xy.T
    assert len(x) > 100
    assert not ((x > 100) & (x < 199) & (y > 50) & (y < 149)).any()
    assert len(groups.groups) == 1


def test_masks_keep_what_moved_out_of_the_panorama(photos, panorama):
    """A blue thing in the middle photo is gone; without the mask it is seen."""
    spoilt = [photo.copy() for photo in photos]
    spoilt[1][80:140, 180:230] = (0, 0, 255)
    mask = np.ones(photos[1].shape[:2], np.bool_)
    mask[75:145, 175:235] = False
    options = replace(LEVEL, neighbours=1, crop=False)

    def blue(image):  # the scene has nothing blue
        return np.all(np.abs(image.astype(int) - (0, 0, 255)) < 60, axis=2).sum()

    assert blue(stitch_photos(spoilt, options=replace(options, seams="voronoi")).image) > 1000
    result = stitch_photos(
        spoilt, masks=[None, mask, None], options=replace(options, seams="voronoi")
    )
    assert blue(result.image) == 0 and result.left_out == ()
    assert [c.focal for c in result.cameras.cameras] == pytest.approx([FOCAL] * 3, rel=0.03)
    assert result.mask[60:-60, 40:-40].all()  # the other photos fill the hole
    assert blue(stitch_photos(photos, options=options).image) == 0


def test_straightening_by_hand(photos, panorama):
    """Photos of a tilted camera are level again when the view is turned back."""
    tilted = panorama.cameras._replace(
        cameras=tuple(c._replace(matrix=turn(0, 0, 8) @ c.matrix) for c in panorama.cameras.cameras)
    )
    level, sloping, straightened = (
        render_panorama(photos, cameras, options=replace(LEVEL, crop=False, turn=angles))
        for cameras, angles in (
            (panorama.cameras, (0, 0, 0)), (tilted, (0, 0, 0)), (tilted, (0, 0, 8))
        )
    )  # fmt: skip
    assert sloping.image.shape[0] > level.image.shape[0] + 30
    np.testing.assert_allclose(straightened.image.shape, level.image.shape, atol=1)
    for actual, expected in zip(
        straightened.cameras.cameras, panorama.cameras.cameras, strict=True
    ):
        np.testing.assert_allclose(actual.matrix, expected.matrix, atol=1e-9)
