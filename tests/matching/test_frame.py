"""Things that are fixed to the frame glue no photos; a camera on a tripod still matches."""

import cv2
import numpy as np
import pytest

from flowmatch.matching import MatchOptions, match_images
from flowmatch.retrieval import Verifier

SIZE = (640, 480)


def blobs(seed, count=300, size=SIZE):
    rng = np.random.default_rng(seed)
    image = np.full((size[1], size[0], 3), rng.uniform(60, 190, 3), np.uint8)
    for _ in range(count):
        centre = int(rng.integers(size[0])), int(rng.integers(size[1]))
        cv2.circle(image, centre, int(rng.integers(3, 25)), rng.uniform(0, 255, 3).tolist(), -1)
    return cv2.GaussianBlur(image, (0, 0), 1.5)


def write(image, text, x, y, scale=0.6):
    image = image.copy()
    cv2.putText(image, text, (x, y), 0, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return image


def logo(image):
    image = image.copy()
    image[20:80, -120:-20] = blobs(99, 60, (100, 60))
    return image


def display(image):
    image = write(image, "DJI H 52.3m D 110m HS 4.2m/s VS 0.0 ISO 100 1/500", 10, 25)
    return write(image, "2023/05/14 10:22:31 N 48.2082 E 16.3738 BAT 78%", 10, 470)


def bonnet(image):
    return np.concatenate([image[:360], blobs(77, 200)[:120]])


STAMPS = {
    "date": lambda image: write(image, "2023/05/14 10:22:31", 400, 465, 0.7),
    "logo": logo,
    "display": display,
    "bonnet": bonnet,
    "logo and display": lambda image: logo(display(image)),
}


def match(first, second, **options):
    return match_images(first, second, model="rootsift", options=MatchOptions(**options))


@pytest.mark.parametrize("stamp", STAMPS)
@pytest.mark.parametrize("count", [60, 300])
@pytest.mark.parametrize("geometry", ["homography", "fundamental"])
def test_stamps_glue_no_photos(stamp, count, geometry):
    first, second = (STAMPS[stamp](blobs(seed, count)) for seed in (1, 2))
    result = match(first, second, geometry=geometry)
    assert not result.trusted
    assert geometry == "fundamental" or result.inliers.sum() < 8
    assert Verifier(first).inliers(second) < 12


@pytest.mark.parametrize("size", [(640, 400), (480, 640), (1280, 960)])
def test_stamps_in_a_corner_of_photos_of_other_sizes(size):
    def stamped(seed, size):
        image = blobs(seed, 300, size)
        return write(image, "2023/05/14 10:22:31", size[0] - 240, size[1] - 15, 0.7)

    first, second = stamped(1, SIZE), stamped(2, size)
    assert not match(first, second).trusted
    assert Verifier(first).inliers(second) < 12


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_stamp_in_a_photo_that_was_turned(turns):
    """EXIF turns a portrait photo after the camera has burnt the date in."""
    first, second = display(blobs(1)), np.ascontiguousarray(np.rot90(display(blobs(2)), turns))
    assert len(match(first, second).points(inliers=True)[0]) < 8


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_photo_that_was_turned_matches(turns):
    first = blobs(1)
    second = np.ascontiguousarray(np.rot90(np.roll(first, 40, axis=1), turns))
    assert len(match(first, second).points(inliers=True)[0]) > 100
    assert (
        len(match(first, np.ascontiguousarray(np.rot90(first, turns))).points(inliers=True)[0])
        > 100
    )


def test_the_same_stamp_at_another_resolution():
    first = display(blobs(1))
    second = cv2.resize(display(blobs(2)), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert not match(first, second).trusted


@pytest.mark.parametrize("stamp", STAMPS)
def test_photos_that_overlap_are_matched_through_their_stamps(stamp):
    scene = blobs(3, 800, (900, 600))
    views = scene[:480, :640], scene[70:550, 130:770]
    result = match(*(STAMPS[stamp](np.ascontiguousarray(view)) for view in views))
    assert result.trusted
    corners = np.float64([[[0, 0]], [[639, 0]], [[639, 479]], [[0, 479]]])
    moved = cv2.perspectiveTransform(corners, result.matrix)
    np.testing.assert_allclose(moved - corners, np.broadcast_to((-130, -70), (4, 1, 2)), atol=1)


def burst(name, image):
    rng = np.random.default_rng(0)
    noisy = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    if name == "something moves":
        noisy[:, 200:440] = blobs(55)[:, 200:440]
    elif name == "darker":
        noisy = (255 * (noisy / 255.0) ** 2).astype(np.uint8)
    return noisy


@pytest.mark.parametrize("name", ["noise", "something moves", "darker"])
@pytest.mark.parametrize("stamp", [None, "display"])
@pytest.mark.parametrize("geometry", ["homography", "fundamental"])
def test_photos_from_a_tripod_match(name, stamp, geometry):
    image = blobs(4)
    views = image, burst(name, image)
    if stamp:
        views = tuple(STAMPS[stamp](view) for view in views)
    result = match(*views, geometry=geometry)
    assert result.trusted
    assert result.inliers.sum() > 100
    assert Verifier(views[0]).inliers(views[1]) > 50


def test_one_thing_in_an_empty_frame_matches():
    """The frame agrees where it has keypoints: the moon from a tripod."""
    image = np.zeros((480, 640, 3), np.uint8)
    image[180:300, 250:370] = blobs(5, 150, (120, 120))
    assert match(image, burst("", image // 2)).trusted


def test_matches_near_the_centre_of_a_zoom_are_kept(photo):
    """They hardly move, and are no stamp: they agree with the matches that move."""
    H, W = photo.shape[:2]
    zoom = cv2.getRotationMatrix2D((W / 2, H / 2), 0, 1.08)
    result = match(photo, cv2.warpAffine(photo, zoom, (W, H)))
    a, b = result.points(inliers=True)
    assert (np.linalg.norm(a - b, axis=1) < 3).sum() > 5
    np.testing.assert_allclose(result.matrix[:2], zoom, atol=0.3)
