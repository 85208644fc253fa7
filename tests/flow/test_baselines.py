"""Classical methods: known motions, and the sizes at which OpenCV would crash."""

import numpy as np
import pytest

from flowmatch._opencv import cv2
from flowmatch.flow.baselines import BASELINES, dis, farneback, zero
from flowmatch.flow.data.datasets import find_pairs, load_pair
from flowmatch.flow.evaluation.metrics import score


@pytest.fixture(scope="module")
def moved():
    """Smooth noise that moves by (3, -2) pixels."""
    canvas = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    canvas = cv2.normalize(cv2.GaussianBlur(canvas, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    return canvas[10:90, 10:110].copy(), canvas[12:92, 7:107].copy()


@pytest.mark.parametrize(("method", "error"), [(dis, 0.1), (farneback, 0.3)])
def test_finds_a_shift(method, error, moved):
    flow = method(*moved)
    assert flow.dtype == np.float32
    assert flow.shape == (80, 100, 2)
    inside = flow[16:-16, 16:-16]
    np.testing.assert_allclose(inside.mean(axis=(0, 1)), (3, -2), atol=error)


def test_zero(moved):
    flow = zero(*moved)
    assert (flow.dtype, flow.shape) == (np.float32, (80, 100, 2))
    assert not flow.any()


def test_names():
    assert list(BASELINES) == ["dis", "dis+refine", "farneback", "zero"]


@pytest.mark.parametrize("method", BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize("size", [(16, 16), (16, 200), (200, 16), (17, 33)])
def test_small_and_narrow(method, size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    flow = method(picture, picture)
    assert flow.shape == (*size, 2)
    assert np.isfinite(flow).all()


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (12, 40), (40, 12)])  # 12 x 40 ends OpenCV
def test_dis_refuses_sizes_that_abort_opencv(size):
    picture = np.zeros((*size, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 16 pixels to a side, got"):
        dis(picture, picture)


RGB = np.zeros((20, 20, 3), np.uint8)


@pytest.mark.parametrize("method", BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (RGB, RGB[:-1]),
        (RGB[..., 0], RGB[..., 0]),
        (RGB.astype(np.float32), RGB.astype(np.float32)),
        (RGB, RGB.astype(np.uint16)),
        (np.zeros((20, 20, 4), np.uint8), np.zeros((20, 20, 4), np.uint8)),
    ],
    ids=["sizes", "gray", "floats", "types", "alpha"],
)
def test_refuses(method, first, second):
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\] of one size, got"):
        method(first, second)


def test_on_middlebury(shared_data):
    (pair,) = find_pairs(shared_data / "flow" / "middlebury" / "RubberWhale")
    first, second, truth, _ = load_pair(pair)
    epe = {name: score(method(first, second), truth).epe for name, method in BASELINES.items()}
    assert epe["dis+refine"] < 0.2 < epe["dis"] < 0.3 < epe["farneback"] < 0.5 < epe["zero"] < 1.3


def test_dis_is_fair(photo):
    """The baseline finds a plain shift."""
    shifted = np.roll(photo, 4, axis=1)
    error = np.linalg.norm(dis(photo, shifted) - [4, 0], axis=-1)[20:-20, 20:-20]
    assert np.median(error) < 0.3
