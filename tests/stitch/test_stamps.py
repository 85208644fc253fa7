"""Date stamps and displays make no panorama of photos that do not overlap."""

import cv2
import numpy as np
import pytest

from flowmatch.stitch import StitchOptions, stitch_photos


def photo(seed):
    rng = np.random.default_rng(seed)
    image = np.full((480, 640, 3), rng.uniform(60, 190, 3), np.uint8)
    for _ in range(200):
        centre = int(rng.integers(640)), int(rng.integers(480))
        cv2.circle(image, centre, int(rng.integers(3, 25)), rng.uniform(0, 255, 3).tolist(), -1)
    image = cv2.GaussianBlur(image, (0, 0), 1.5)
    text = "DJI H 52.3m D 110m HS 4.2m/s VS 0.0"
    return cv2.putText(image, text, (20, 460), 0, 0.8, (255, 255, 255), 2, cv2.LINE_AA)


@pytest.mark.parametrize("motion", ["rotation", "affine"])
def test_a_line_of_text_makes_no_panorama(motion):
    with pytest.raises(ValueError, match="no two of the 3 photos make a panorama"):
        stitch_photos([photo(seed) for seed in range(3)], options=StitchOptions(motion=motion))
