"""The energy as tensor code: against OpenCV at one scale, resizing, derivatives, compilation."""

import cv2
import numpy as np
import pytest
import torch

from flowmatch.flow.variational import minimise_energy, reduce_image, resize_flow, scaled_sizes

SIZES = [(16, 16), (17, 31), (40, 57), (57, 40)]
ONE_STEP = 1 / 32
"""Resolution of positions in pixels at which OpenCV before 5.0 samples images."""


def to_batch(array):
    return torch.from_numpy(array).float().reshape(1, *array.shape[:2], -1).permute(0, 3, 1, 2)


def to_array(batch):
    return batch[0].permute(1, 2, 0).squeeze(-1).numpy()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def grays(photo):
    """Return a function that crops a gray picture and one moved by (1, 2), 0 to 255."""

    def make(size):
        return [
            np.ascontiguousarray(photo[80 + d : 80 + d + size[0], 60 + e : 60 + e + size[1], 1])
            for d, e in ((0, 0), (-2, -1))
        ]

    return make


def rough_flow(rng, size):
    noise = rng.normal(0, 1, (*size, 2)).astype(np.float32)
    return cv2.blur(noise, (5, 5)) * 4 + np.float32([1, 2])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_one_scale_equals_opencv(size, grays, rng):
    first, second = grays(size)
    flow = rough_flow(rng, size)
    solver = cv2.VariationalRefinement.create()
    solver.setFixedPointIterations(3)
    expected = solver.calc(first, second, flow.copy())
    refined = to_array(minimise_energy(*map(to_batch, (first, second, flow))))
    distance = np.linalg.norm(refined - expected, axis=-1)
    assert np.linalg.norm(expected - flow, axis=-1).mean() > 0.2
    if cv2.__version__.startswith("4."):
        assert distance.mean() < ONE_STEP
    else:
        assert distance.mean() < 1e-5
        assert distance.max() < 5e-3


@pytest.mark.parametrize("new", [(13, 20), (20, 29), (10, 14), (39, 55)], ids=str)
def test_areas_equal_opencv(new, grays, rng):
    (picture, _), flow = grays((40, 57)), rough_flow(rng, (40, 57))
    size = new[::-1]
    expected = cv2.resize(picture.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(to_array(reduce_image(to_batch(picture), new)), expected, atol=1e-3)
    factors = np.float32([new[1] / 57, new[0] / 40])
    small = cv2.resize(flow, size, interpolation=cv2.INTER_AREA) * factors
    np.testing.assert_allclose(to_array(resize_flow(to_batch(flow), new)), small, atol=1e-5)
    large = cv2.resize(small, (57, 40), interpolation=cv2.INTER_LINEAR) / factors
    np.testing.assert_allclose(to_array(resize_flow(to_batch(small), (40, 57))), large, atol=1e-5)


def test_scales_are_coarse_to_fine_and_not_too_small():
    sizes = scaled_sizes(64, 100)
    assert (len(sizes), sizes[0], sizes[1], sizes[-2:]) == (10, (16, 25), (19, 30), [(64, 100)] * 2)
    assert scaled_sizes(16, 4000) == [(16, 4000)] * 2


def test_derivatives_by_flow_and_images():
    first, second = 255 * torch.rand(2, 1, 1, 5, 6, dtype=torch.float64)
    flow = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (first, second, flow)]
    assert torch.autograd.gradcheck(minimise_energy, inputs, fast_mode=True)


def test_compiles_as_one_graph():
    first, second, flow = torch.rand(1, 1, 8, 9), torch.rand(1, 1, 8, 9), torch.randn(1, 2, 8, 9)
    compiled = torch.compile(minimise_energy, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(first, second, flow), minimise_energy(first, second, flow))
