"""Options of stitching: values that are rejected."""

import dataclasses

import pytest

from flowmatch.stitch import StitchOptions


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"motion": "perspective"}, "motion must be one of rotation, affine"),
        ({"wave": "up"}, "wave must be one of auto"),
        ({"detector": "surf"}, "detector must be one of sift, orb"),
        ({"confidence": 0.0}, "confidence must be positive"),
        ({"keypoint_megapixels": -1.0}, "keypoint_megapixels must be positive"),
        ({"seam_megapixels": float("nan")}, "seam_megapixels must be positive"),
        ({"keypoints": 0}, "keypoints must be positive"),
        ({"ratio": 2.0}, "expected 0 < ratio <= 1, or None, got 2.0"),
        ({"projection": "cube"}, "projection must be one of auto, plane"),
        ({"seams": "x"}, "seams must be"),
        ({"exposure": "x"}, "exposure must be"),
        ({"blend": "x"}, "blend must be"),
        ({"blend_width": 101.0}, "blend_width must be"),
        ({"neighbours": 0}, "neighbours must be positive, got 0"),
        ({"turn": (0.0, float("nan"), 0.0)}, "turn must be three angles"),
        ({"turn": (0.0, 1.0)}, "turn must be three angles"),
        ({"turn": (0.0, 0.0, 2.0), "motion": "affine"}, "turn is for motion rotation"),
        ({"megapixels": 0.0}, "megapixels must be positive"),
    ],
)
def test_errors(values, message):
    with pytest.raises(ValueError, match=message):
        StitchOptions(**values)


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        StitchOptions().crop = False
    assert StitchOptions(ratio=None, megapixels=None, seam_megapixels=None) != StitchOptions()
