"""Rigid motions: against scipy, and against each other."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from flowmatch.geometry import (
    as_motion_matrix,
    compose,
    depths_agree,
    fit_motion,
    invert,
    invert_motion,
    motion,
    rotation_about,
    rotation_angle,
    transform,
    transform_points,
    translation_error,
    unproject,
)


def random_motions(*shape):
    vectors = 2 * torch.randn(*shape, 3, dtype=torch.float64)
    return motion(rotation_about(vectors), torch.randn(*shape, 3, dtype=torch.float64))


def test_rotations_are_those_of_scipy():
    vectors = torch.randn(50, 3, dtype=torch.float64) * torch.tensor([[1e-9], [1]]).repeat(25, 1)
    expected = Rotation.from_rotvec(vectors.numpy()).as_matrix()
    np.testing.assert_allclose(rotation_about(vectors).numpy(), expected, atol=1e-14)


@pytest.mark.parametrize("angle", [0, 1e-9, 0.3, 3.1, np.pi - 1e-9])
def test_angle_is_precise_everywhere(angle):
    axis = torch.tensor([2, -1, 2], dtype=torch.float64) / 3
    base = random_motions()
    rotated = base[:3, :3] @ rotation_about(angle * axis)
    assert rotation_angle(base, rotated).item() == pytest.approx(angle, rel=1e-6, abs=1e-15)


def test_motions_form_a_group():
    a, b = random_motions(4), random_motions(4)
    points = torch.randn(4, 7, 3, dtype=torch.float64)
    close = torch.testing.assert_close
    close(transform(compose(a, b), points), transform(a, transform(b, points)))
    close(transform(invert(a), transform(a, points)), points)
    rotation, shift = a[..., :3, :3], a[..., :3, 3]
    close(transform(a, points)[2, 3], rotation[2] @ points[2, 3] + shift[2])
    assert translation_error(a, a).tolist() == [0] * 4


@pytest.mark.parametrize("count", [3, 50])
def test_fit_recovers_motions(count):
    truth = random_motions(6)
    source = torch.randn(6, count, 3, dtype=torch.float64)
    target = transform(truth, source)
    torch.testing.assert_close(fit_motion(source, target), truth)
    target[:, 0] += 100  # an outlier of weight 0
    weights = torch.ones(6, count, dtype=torch.float64)
    weights[:, 0] = 0
    if count > 3:
        torch.testing.assert_close(fit_motion(source, target, weights), truth)


def test_fit_is_the_least_squares_solution():
    source, target = torch.randn(2, 20, 3, dtype=torch.float64)
    fitted = fit_motion(source, target)
    rotation, _ = Rotation.align_vectors(target - target.mean(0), source - source.mean(0))
    np.testing.assert_allclose(fitted[:3, :3], rotation.as_matrix(), atol=1e-9)
    assert torch.linalg.det(fitted[:3, :3]).item() == pytest.approx(1)


def test_fit_never_reflects():
    source = torch.randn(30, 3, dtype=torch.float64)
    fitted = fit_motion(source, source * torch.tensor([1, 1, -1]))
    assert torch.linalg.det(fitted[:3, :3]).item() == pytest.approx(1)
    flat = source * torch.tensor([1, 1, 0])
    torch.testing.assert_close(transform(fit_motion(flat, -flat), flat), -flat)


def test_numpy_half_agrees_with_tensors():
    motions, points = random_motions(), torch.randn(7, 3, dtype=torch.float64)
    moved = transform_points(motions.numpy(), points.numpy())
    np.testing.assert_allclose(moved, transform(motions, points), atol=1e-12)
    np.testing.assert_allclose(invert_motion(motions.numpy()), invert(motions), atol=1e-12)
    matrix = as_motion_matrix(motions.float().tolist())
    assert matrix.dtype == np.float64
    np.testing.assert_allclose(matrix, motions, atol=1e-6)
    for wrong in (2 * np.eye(4), np.eye(3)):
        with pytest.raises(ValueError, match="motion must be a rigid"):
            as_motion_matrix(wrong)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\[\.\.\., N, 3\], got \(4, 3\) and \(5, 3\)"):
        fit_motion(torch.zeros(4, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"weights must be \(4,\), got \(3,\)"):
        fit_motion(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="rotation must be"):
        motion(torch.eye(4), torch.zeros(3))
    with pytest.raises(ValueError, match="at least one"):
        compose()


def test_unprojected_pixels_have_their_depth_and_project_back():
    camera = np.array([[80.0, 0, 30], [0, 90, 20], [0, 0, 1]])
    pixels = np.array([[[0, 0], [30, 20]], [[59, 39], [12, 34]]])
    depth = np.array([[1.0, 2.0], [3.0, np.nan]])
    points = unproject(pixels, depth, camera)
    assert points.shape == (2, 2, 3)
    np.testing.assert_allclose(points[..., 2], depth)
    projected = points @ camera.T
    np.testing.assert_allclose((projected[..., :2] / depth[..., None])[0], pixels[0])
    assert np.isnan(points[1, 1]).all()


def test_depths_agree_within_3_cm_and_2_percent():
    expected = np.array([1.0, 1.0, 10.0, 10.0, 1.0, np.nan])
    measured = np.array([1.049, 1.051, 10.22, 10.24, np.nan, 1.0])
    assert depths_agree(measured, expected).tolist() == [True, False, True, False, False, False]
