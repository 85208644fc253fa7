"""Random views: keypoints are projected exactly, and camera noise keeps the content."""

import numpy as np
import pytest

from flowmatch.imaging import as_gray
from flowmatch.matching.evaluation.metrics import project
from flowmatch.matching.keypoints import Keypoints, detect_keypoints
from flowmatch.matching.patches import extract_patches
from flowmatch.matching.synthetic.views import (
    apply_camera_noise,
    find_repeated,
    project_keypoints,
    random_view,
    warp_perspective,
)


def keypoints(*rows):
    x, y, scale, angle = np.array(rows, np.float32).T
    return Keypoints(np.stack([x, y], axis=1), scale, angle, np.ones_like(x))


def turned(degrees, zoom, height, width):
    """Return a similarity transform about the centre."""
    c, s = zoom * np.cos(np.deg2rad(degrees)), zoom * np.sin(np.deg2rad(degrees))
    matrix = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix[:2, 2] = middle - matrix[:2, :2] @ middle
    return matrix


@pytest.mark.parametrize(("degrees", "zoom"), [(0, 1.0), (35, 1.0), (-110, 1.6), (20, 0.55)])
def test_projected_patches_are_the_same(photo, degrees, zoom):
    """A similarity transform changes the keypoint, but not the content of its patch."""
    gray = as_gray(photo)
    matrix = turned(degrees, zoom, *gray.shape)
    projected = warp_perspective(gray, matrix, *gray.shape)
    original = keypoints((220, 150, 4, 0.3), (260, 120, 5, 2.0), (190, 170, 6, -1.0))
    first = extract_patches(gray, original, 16)
    second = extract_patches(projected, project_keypoints(original, matrix), 16)
    assert (first - second).abs().mean() < 0.02
    assert (first - second.roll(1, 0)).abs().mean() > 0.08


def test_random_views_project_as_cameras_do():
    """Scale and orientation agree with finite differences; the plane is in front of the camera."""
    rng = np.random.default_rng(1)
    zooms, tilts = [], []
    for _ in range(200):
        matrix = random_view(rng, 480, 640)
        corners = project([[0, 0], [639, 0], [0, 479], [639, 479]], matrix)
        assert np.isfinite(corners).all()
        original = keypoints((300, 200, 2, 0.7), (20, 400, 3, -2))
        projected = project_keypoints(original, matrix)
        # An edge perpendicular to the orientation stays perpendicular.
        edge = 0.1 * np.stack([-np.sin(original.angle), np.cos(original.angle)], axis=1)
        edge = project(original.xy + edge, matrix) - project(original.xy - edge, matrix)
        edge /= np.linalg.norm(edge, axis=1, keepdims=True)
        along = edge[:, 0] * np.cos(projected.angle) + edge[:, 1] * np.sin(projected.angle)
        assert np.allclose(along, 0, atol=5e-3)
        side = edge[:, 1] * np.cos(projected.angle) - edge[:, 0] * np.sin(projected.angle)
        assert (side > 0).all()
        right, down = (
            project(original.xy + d, matrix) - project(original.xy, matrix) for d in np.eye(2) / 100
        )
        area = np.abs(right[:, 0] * down[:, 1] - right[:, 1] * down[:, 0]) * 100**2
        assert np.allclose(projected.scale, original.scale * np.sqrt(area), rtol=1e-2)
        jacobian = np.stack([right[0], down[0]]) * 100
        large, small = np.linalg.svd(jacobian)[1]
        zooms.append(np.sqrt(large * small))
        tilts.append(small / large)
    assert np.quantile(zooms, 0.9) > 1.4
    assert np.quantile(zooms, 0.1) < 0.6
    assert np.quantile(tilts, 0.1) < 0.6  # about 55 degrees


def test_find_repeated():
    projected = keypoints((10, 10, 4, 0), (50, 50, 4, 0), (90, 90, 4, 3.1), (130, 130, 4, 0))
    detected = keypoints(
        (12, 10, 4, 0), (11, 10, 4, 0.1),  # the second is closer
        (50, 50, 7.5, 0), (50, 51, 4, 1.0),  # too large, and rotated
        (90, 92.5, 5, -3.1),  # angles wrap around
        (130, 133.5, 4, 0),  # too far
    )  # fmt: skip
    assert find_repeated(projected, detected).tolist() == [1, -1, 4, -1]
    assert find_repeated(projected, detected.select(slice(0))).tolist() == [-1] * 4
    assert find_repeated(projected.select(slice(0)), detected).tolist() == []
    many = keypoints(*[(7 * k, 0, 4, 0) for k in range(1201)])
    assert find_repeated(many, many).tolist() == list(range(1201))


def test_camera_noise(photo):
    """Illumination changes, but bright areas stay bright."""
    gray = as_gray(photo)
    views = [apply_camera_noise(np.random.default_rng(k), gray) for k in range(8)]
    assert all(view.shape == gray.shape and view.dtype == np.uint8 for view in views)
    assert (apply_camera_noise(np.random.default_rng(3), gray) == views[3]).all()
    assert np.std([view.mean() for view in views]) > 5
    correlations = [np.corrcoef(view.ravel(), gray.ravel())[0, 1] for view in views]
    assert np.median(correlations) > 0.7
    assert min(correlations) > 0.3
    assert len(detect_keypoints(views[0]).xy) > 20
