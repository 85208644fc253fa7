"""Programs that set another default type of floating point numbers get the same results."""

import cv2
import numpy as np
import pytest
import torch

import flowmatch as fm
from flowmatch.catalogue import available

PICTURE = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8), (0, 0), 1.5
)
MOVED = np.roll(PICTURE, 3, axis=1)


def scan(count):
    x, y = np.random.default_rng(0).uniform(0, 2, (2, count))
    return np.column_stack([x, y, 0.3 * np.sin(3 * x) * np.cos(2 * y) + 0.2 * np.sin(5 * x * y)])


def matches(model):
    result = fm.match_images(PICTURE, MOVED, model=model)
    return result.matches, result.matrix


def alignment():
    result = fm.align_images(PICTURE, MOVED)
    return torch.cat(result.stages, dim=1), result.error


def search(folder):
    for k in range(3):
        fm.io.write_image(folder / f"{k}.png", np.roll(PICTURE, 20 * k, axis=1))
    index = fm.build_index(folder)
    return [hit.score for hit in fm.search(index, folder / "2.png")]


CALLS = {
    "flow": lambda folder: fm.estimate_flow(PICTURE, MOVED),
    "matches": lambda folder: matches("default"),
    "rootsift": lambda folder: matches("rootsift"),
    "alignment": lambda folder: alignment(),
    "fpfh": lambda folder: fm.register_scans(scan(3000), scan(3000) + 0.1, model="fpfh").motion,
    "spin": lambda folder: fm.register_scans(scan(500), scan(500) + 0.1, model="spin").motion,
    "boxes": lambda folder: fm.track_boxes([PICTURE, MOVED], [(40, 40, 40, 40)]).boxes,
    "points": lambda folder: fm.track_points([PICTURE, MOVED], [(60.0, 60.0)]).points,
    "search": search,
}


@pytest.fixture
def float64():
    yield lambda: torch.set_default_dtype(torch.float64)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", available())
def test_networks_are_float32(name, float64):
    float64()
    tensors = fm.load(name).state_dict().values()
    assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("name", CALLS)
def test_results_are_the_same(name, float64, tmp_path):
    expected = CALLS[name](tmp_path)
    float64()
    result = CALLS[name](tmp_path)
    pairs = (
        zip(result, expected, strict=True) if isinstance(result, tuple) else [(result, expected)]
    )
    for value, other in pairs:
        assert np.asarray(value).dtype == np.asarray(other).dtype
        np.testing.assert_array_equal(value, other)


def of_float64(load, name="default"):
    return load(name).double()


GIVEN = {
    "flow": lambda folder: fm.estimate_flow(PICTURE, MOVED, model=of_float64(fm.flow.load)),
    "matches": lambda folder: matches(of_float64(fm.matching.load)),
    "alignment": lambda folder: fm.align_images(PICTURE, MOVED, model=of_float64(fm.align.load)),
    "spin": lambda folder: fm.register_scans(
        scan(500), scan(500) + 0.1, model=of_float64(fm.registration.load, "spin")
    ),
    "index": lambda folder: fm.build_index(folder, model=of_float64(fm.matching.load)),
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_given_network_of_float64_is_refused(name, tmp_path):
    fm.io.write_image(tmp_path / "0.png", PICTURE)
    with pytest.raises(ValueError, match="the model must be float32, got torch.float64"):
        GIVEN[name](tmp_path)
