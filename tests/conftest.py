"""Fixtures of all tests: devices, types, tolerances, the pictures scikit-image carries."""

from pathlib import Path

import numpy as np
import pytest
import torch

from flowmatch.ops import warp

# What two float kernels may differ by: they add in different orders.
TOLERANCES = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-12},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1e-2},
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.fail("a test marked gpu was asked for, and there is no GPU")
    return request.param


@pytest.fixture(params=TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request):
    return request.param


@pytest.fixture
def close(dtype):
    """Compare with the tolerance of the type under test."""

    def check(actual, expected):
        torch.testing.assert_close(actual, expected.to(actual.dtype), **TOLERANCES[dtype])

    return check


@pytest.fixture(scope="session")
def shared_data():
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the development data (../shared/data) is not here")
    return folder


@pytest.fixture(scope="session")
def photo():
    """A photograph, [300, 451, 3] uint8."""
    from skimage import data

    return np.ascontiguousarray(data.chelsea())


@pytest.fixture(scope="session")
def fetch_back():
    """Warp the second picture, [H, W, C], by the flow from the first to it, [H, W, 2]."""

    def fetch(second, flow):
        tensors = (torch.from_numpy(array).permute(2, 0, 1)[None] for array in (second, flow))
        return warp(*tensors)[0].permute(1, 2, 0).numpy()

    return fetch
