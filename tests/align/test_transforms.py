"""Transforms: identities, known values, composition, gradients."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator

from flowmatch.align.transforms import (
    AFFINE,
    THIN_PLATE,
    compose_affine,
    control_points,
    corner_grid,
    identity,
    invert_affine,
    pixel_grid,
    spline_bases,
    thin_plate_points,
    transform_points,
    warp_image,
)
from flowmatch.ops import warp


def random_plate(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return identity(THIN_PLATE, batch) + 0.4 * torch.randn(batch, 18, generator=generator)


@pytest.mark.parametrize("kind", [AFFINE, THIN_PLATE])
def test_identity_moves_nothing(kind):
    points = 3 * torch.randn(2, 50, 2)
    torch.testing.assert_close(
        transform_points(identity(kind, 2), points), points, rtol=1e-4, atol=1e-4
    )


def test_a_known_affine_transform():
    """A rotation by 90 degrees and a shift: (1, 0) goes to (0, 1) + (2, 3)."""
    theta = torch.tensor([[0.0, -1, 2, 1, 0, 3]])
    assert transform_points(theta, torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])).tolist() == [
        [[2, 4], [1, 3]]
    ]


def test_thin_plate_interpolates_its_control_points():
    theta = random_plate().double()
    control = control_points().double().expand(2, -1, -1)
    torch.testing.assert_close(thin_plate_points(theta, control), theta.view(2, 2, 9).mT)


def test_thin_plate_of_affine_control_points_is_affine():
    affine = torch.tensor([[0.9, 0.2, 0.1, -0.3, 1.1, -0.2]]).double()
    theta = transform_points(affine, control_points().double()[None]).mT.flatten(1)
    points = torch.randn(1, 40, 2).double()
    torch.testing.assert_close(transform_points(theta, points), transform_points(affine, points))


def test_thin_plate_equals_scipy():
    theta = random_plate(1).double()
    spline = RBFInterpolator(
        control_points().numpy(), theta.view(2, 9).T.numpy(), kernel="thin_plate_spline"
    )
    points = torch.randn(60, 2).double()
    ours = thin_plate_points(theta, points[None])[0]
    np.testing.assert_allclose(ours.numpy(), spline(points.numpy()), atol=1e-9)


def test_thin_plate_has_gradients_everywhere():
    """Also at the control points, where the argument of the logarithm is 0."""
    theta = random_plate(1).double().requires_grad_()
    points = torch.randn(1, 5, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(thin_plate_points, (theta, points))
    at_control = control_points().double()[None].requires_grad_()
    thin_plate_points(theta, at_control).sum().backward()
    assert at_control.grad.isfinite().all()


def test_gradients_after_use_in_inference_mode():
    with torch.inference_mode():
        transform_points(random_plate(), torch.rand(2, 4, 2))
    theta = random_plate().double().requires_grad_()
    transform_points(theta, torch.rand(2, 4, 2).double()).sum().backward()
    assert theta.grad.isfinite().all()


def test_the_last_stage_is_applied_first():
    affine, plate = torch.tensor([[2.0, 0, 1, 0, 2, 0]]), random_plate(1)
    points = torch.rand(1, 7, 2)
    torch.testing.assert_close(
        transform_points([affine, plate], points),
        transform_points(affine, transform_points(plate, points)),
    )


def test_affine_transforms_compose_and_invert():
    outer, inner = torch.randn(2, 3, 6).double()
    points = torch.randn(3, 8, 2).double()
    both = compose_affine(outer, inner)
    torch.testing.assert_close(
        transform_points(both, points), transform_points([outer, inner], points)
    )
    neutral = compose_affine(invert_affine(outer), outer)
    torch.testing.assert_close(neutral, identity(AFFINE, 3).double())


def test_errors():
    with pytest.raises(ValueError, match="kind must be 6 or 18, got 7"):
        identity(7)
    with pytest.raises(ValueError, match=r"\[B, 6\] or \[B, 18\], got \(1, 8\)"):
        transform_points(torch.zeros(1, 8), torch.zeros(1, 1, 2))


def test_grids():
    assert pixel_grid(2, 4).shape == (8, 2)
    assert pixel_grid(2, 4)[0].tolist() == [-0.75, -0.5]
    grid = corner_grid()
    assert grid.shape == (400, 2)
    assert grid[1].tolist() == pytest.approx([-1 + 2 / 19, -1])


def test_warping_equals_the_operator_for_equal_sizes():
    image, theta = torch.rand(2, 3, 9, 13), identity(AFFINE, 2)
    theta = theta + 0.1 * torch.randn(2, 6)
    points = pixel_grid(9, 13).expand(2, -1, -1)
    scale = torch.tensor([13 / 2, 9 / 2])
    flow = ((transform_points(theta, points) - points) * scale).mT.view(2, 2, 9, 13)
    torch.testing.assert_close(warp_image(theta, image), warp(image, flow), rtol=1e-4, atol=1e-4)


def test_warping_to_another_size():
    image = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 1, 8, 16)
    half = warp_image(identity(AFFINE), image, (4, 8))
    assert half[0, 0, 0].tolist() == [0.5 + 2 * k for k in range(8)]
    mirrored = torch.tensor([[math.cos(math.pi), 0, 0, 0, 1, 0]])
    torch.testing.assert_close(warp_image(mirrored, image), image.flip(-1))


def test_bookstein_1989():
    """The paper's first example, a square with two corners moved down and two up by a quarter.

    Its coefficients are printed as 0.0902, of alternating signs, with U(r) = r^2 log r^2.
    """
    square = torch.tensor([[0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    shift = torch.tensor([-0.25, 0.25, -0.25, 0.25], dtype=torch.float64)
    kernel = spline_bases(square, square)[:, :4]
    # U(0), U(sqrt 2) = 2 log 2, U(2) = 4 log 4.
    expected = [0.0, 2 * math.log(2), 4 * math.log(4), 2 * math.log(2)]
    assert kernel[0].tolist() == pytest.approx(expected)
    system = torch.zeros(7, 7, dtype=torch.float64)
    system[:4] = spline_bases(square, square)
    system[4:, :4] = system[:4, 4:].T
    solution = torch.linalg.solve(system, torch.cat([shift, torch.zeros(3, dtype=torch.float64)]))
    assert solution[:4].tolist() == pytest.approx([-0.0902, 0.0902, -0.0902, 0.0902], abs=5e-5)
    assert solution[4:].abs().max() < 1e-12  # no affine part in the upright coordinate


def test_kernel_at_known_radii():
    """U is 0 at 0 and 1, e at sqrt(e), and minimal, -1/e, at r^2 = 1/e."""
    r = torch.tensor([0.0, 1.0, math.exp(0.5), math.exp(-0.5)], dtype=torch.float64)
    points = torch.stack([r, torch.zeros(4)], 1)
    kernel = spline_bases(points, torch.zeros(1, 2, dtype=torch.float64))[:, 0]
    assert kernel.tolist() == pytest.approx([0, 0, math.e, -1 / math.e])
