"""Checks and conversions of images."""

import numpy as np
import pytest

from flowmatch.imaging import as_gray, as_rgb, check_image, resize, resize_within

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


@pytest.mark.parametrize(
    "image",
    [RGB / 255, RGB[..., :2], RGB[None], RGB[:0], RGB[0, 0], np.zeros((2, 2, 4), np.uint8)],
    ids=lambda image: f"{image.dtype} {image.shape}",
)
def test_wrong_images_are_errors_that_name_the_argument(image):
    for check in (check_image, as_rgb, as_gray):
        with pytest.raises(ValueError, match=r"^photo must be uint8 RGB \[H, W, 3\] or gray \["):
            check(image, "photo")


def test_check_does_not_copy():
    assert check_image(RGB) is RGB


def test_gray_is_repeated_and_rgb_becomes_luma():
    gray = np.array([[7, 250]], np.uint8)
    np.testing.assert_array_equal(as_rgb(gray), np.stack([gray] * 3, axis=-1))
    np.testing.assert_array_equal(as_gray(gray), gray)
    luma = RGB.astype(float) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(as_gray(RGB), luma, atol=0.51)
    flipped = as_rgb(RGB[:, ::-1])
    assert flipped.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(flipped, RGB[:, ::-1])


def test_sizes():
    image = np.full((40, 60, 3), 9, np.uint8)
    assert resize(image, (30, 10)).shape == (10, 30, 3)
    assert resize_within(image, 30).shape == (20, 30, 3)
    assert resize_within(image, 60) is image
    assert resize_within(np.zeros((1, 1000), np.uint8), 10).shape == (1, 10)
