"""Options of the registration of scans."""

import pytest

from flowmatch.registration import RegisterOptions


def test_values_are_checked():
    with pytest.raises(ValueError, match="sampling must be"):
        RegisterOptions(sampling="harris")
    with pytest.raises(ValueError, match="at least 3 keypoints, 1 trial .* got 2, 400000"):
        RegisterOptions(keypoints=2)
    with pytest.raises(ValueError, match="a positive voxel are needed, got 4000, 400000 and 0"):
        RegisterOptions(voxel=0)
