"""Variational refinement: sub-pixel errors, OpenCV and tensor code, sizes, types, and checks."""

import numpy as np
import pytest
import torch

from flowmatch.flow import FlowOptions, estimate_flow, refine, refine_flow, refine_flows
from flowmatch.flow.synthetic import Sources, SyntheticFlow
from flowmatch.flow.synthetic.scene import Layer, Motion, Scene, translate


@pytest.fixture(scope="module")
def shifted(photo):
    """A photograph that moves by (1.6, -0.7)."""
    scene = Scene(
        (120, 161), (Layer(photo, translate(-150, -90)),), Motion(translation=(1.6, -0.7))
    )
    return [np.rint(scene.render(t).image).astype(np.uint8) for t in (0, 1)]


@pytest.fixture(scope="module")
def rough():
    """The motion with errors of about a pixel, in blocks of 4 x 4, like a network's flow."""
    noise = np.random.default_rng(0).normal(0, 0.75, (30, 41, 2)).astype(np.float32)
    return np.kron(noise, np.ones((4, 4, 1), np.float32))[:, :161] + np.float32([1.6, -0.7])


@pytest.fixture
def without_opencv(monkeypatch):
    monkeypatch.setattr(refine, "cv2", None)


@pytest.fixture(scope="module")
def rendered(photo):
    """Two rendered pairs of odd size, and their true flow with errors, as batches of tensors."""
    pairs = SyntheticFlow(Sources([photo], textures=range(500, 510)), (83, 101), ((0.3, 1.0),))
    samples = [pairs[i] for i in range(2)]
    first, second, truth = (
        torch.from_numpy(np.stack([getattr(sample, name) for sample in samples])).movedim(-1, 1)
        for name in ("first", "second", "flow")
    )
    noise = torch.randn(2, 2, 21, 26, generator=torch.Generator().manual_seed(0)) / 2
    coarse = noise.repeat_interleave(4, -2).repeat_interleave(4, -1)[..., :83, :101]
    return first / 255, second / 255, truth + coarse, truth


def endpoint_error(flow, truth):
    return (flow - truth).norm(dim=1).mean().item()


def error(flow):
    return np.linalg.norm(flow - [1.6, -0.7], axis=-1)[8:-8, 8:-8].mean()


@pytest.mark.parametrize("gray", [False, True])
def test_finds_the_rest_of_the_motion(shifted, rough, gray):
    first, second = (picture[..., 1] if gray else picture for picture in shifted)
    kept = rough.copy()
    assert error(rough) > 0.9
    assert error(refine_flow(first, second, rough)) < 0.1
    assert (rough == kept).all()


def test_estimate_flow_refines_pictures_and_tensors(shifted, rough):
    class Rough(torch.nn.Module):
        def forward(self, first, second):
            return [torch.from_numpy(rough).permute(2, 0, 1).expand(len(first), -1, -1, -1)]

    options = FlowOptions("fast", refine=True)
    assert error(estimate_flow(*shifted, model=Rough(), options=options)) < 0.2
    tensors = (torch.from_numpy(np.stack([p, p])).permute(0, 3, 1, 2) for p in shifted)
    flow = estimate_flow(*tensors, model=Rough(), options=options)
    assert flow.shape == (2, 2, 120, 161)
    assert error(flow[1].permute(1, 2, 0).numpy()) < 0.2


def test_tensor_code_equals_opencv(rendered, monkeypatch):
    *inputs, truth = rendered
    by_opencv = refine_flows(*inputs)
    monkeypatch.setattr(refine, "cv2", None)
    by_tensors = refine_flows(*inputs)
    assert endpoint_error(by_opencv, inputs[2]) > 0.3
    assert endpoint_error(by_tensors, by_opencv) < 0.02
    assert abs(endpoint_error(by_tensors, truth) - endpoint_error(by_opencv, truth)) < 0.005


def test_runs_without_opencv(shifted, rough, without_opencv):
    assert error(refine_flow(*shifted, rough)) < 0.1


def test_tensor_code_copies_nothing_to_the_host(rendered, without_opencv, monkeypatch):
    def refuse(*_):
        raise AssertionError("a copy to the host")

    for name in ("cpu", "numpy", "__array__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    assert refine_flows(*rendered[:3]).shape == rendered[2].shape


@pytest.mark.gpu
def test_gpu_equals_cpu(rendered):
    expected = refine_flows(*rendered[:3])
    refined = refine_flows(*(tensor.cuda() for tensor in rendered[:3]))
    assert endpoint_error(refined.cpu(), expected) < 0.005


@pytest.mark.parametrize("opencv", [True, False])
def test_a_batch_is_a_pair_at_a_time(rendered, opencv, monkeypatch):
    if not opencv:
        monkeypatch.setattr(refine, "cv2", None)
    together = refine_flows(*rendered[:3])
    for i in range(2):
        alone = refine_flows(*(tensor[i : i + 1] for tensor in rendered[:3]))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=0 if opencv else 1e-3)
    assert refine_flows(*(tensor[:0] for tensor in rendered[:3])).shape == (0, 2, 83, 101)


def test_arrays_and_tensors_agree(shifted, rough):
    flow = torch.from_numpy(rough).movedim(-1, 0)[None]
    first, second = (torch.from_numpy(p).movedim(-1, 0)[None] / 255 for p in shifted)
    refined = refine_flows(first, second, flow)[0].movedim(0, -1).numpy()
    np.testing.assert_array_equal(refined, refine_flow(*shifted, rough))
    gray = first.mean(dim=1, keepdim=True)
    torch.testing.assert_close(
        refine_flows(gray, gray, flow), refine_flows(*[gray.expand(-1, 3, -1, -1)] * 2, flow),
        rtol=0, atol=1e-2,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_types_of_flows(rendered, dtype):
    first, second, flow = (tensor.to(dtype) for tensor in rendered[:3])
    refined = refine_flows(first, second, flow)
    single = refine_flows(first.float(), second.float(), flow.float())
    assert refined.dtype == dtype
    if dtype == torch.float64:
        assert endpoint_error(refined, single) < 1e-3
    else:
        torch.testing.assert_close(refined, single.to(dtype), rtol=0, atol=0)


def test_gradients_reach_flow_and_images(rendered):
    inputs = [tensor[:1, :, :20, :24].clone() for tensor in rendered[:3]]
    expected = refine_flows(*inputs)
    for tensor in inputs:
        tensor.requires_grad_()
    refined = refine_flows(*inputs)
    assert endpoint_error(refined, expected) < 1e-3
    refined.square().sum().backward()
    assert all(tensor.grad.isfinite().all() and tensor.grad.any() for tensor in inputs)
    with torch.no_grad():
        assert not refine_flows(*inputs).requires_grad


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (16, 99)], ids=str)
def test_small_and_odd_sizes(size):
    picture = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    assert refine_flow(picture, picture, np.zeros((*size, 2), np.float32)).shape == (*size, 2)


@pytest.mark.parametrize(
    ("first", "flow", "message"),
    [
        (np.zeros((20, 20), np.float32), np.zeros((20, 20, 2)), "uint8"),
        (np.zeros((20, 21), np.uint8), np.zeros((20, 20, 2)), "one size"),
        (np.zeros((15, 20), np.uint8), np.zeros((15, 20, 2)), "at least 16"),
        (np.zeros((20, 20), np.uint8), np.full((20, 20, 2), np.nan), "finite"),
    ],
)
def test_refuses(first, flow, message):
    second = np.zeros(flow.shape[:2], np.uint8)
    with pytest.raises(ValueError, match=message):
        refine_flow(first, second, flow.astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first": torch.zeros(1, 2, 20, 20), "second": torch.zeros(1, 2, 20, 20)}, "one size"),
        ({"first": torch.zeros(3, 20, 20)}, "one size"),
        ({"second": torch.zeros(1, 3, 20, 21)}, "one size"),
        ({"flow": torch.zeros(2, 2, 20, 20)}, "one size"),
        ({"first": torch.zeros(1, 3, 20, 20, dtype=torch.uint8)}, "floating-point.*uint8"),
        ({"flow": torch.full((1, 2, 20, 20), torch.inf)}, "finite"),
    ],
)
def test_refuses_tensors(changes, message):
    inputs = {
        "first": torch.zeros(1, 3, 20, 20),
        "second": torch.zeros(1, 3, 20, 20),
        "flow": torch.zeros(1, 2, 20, 20),
    }
    with pytest.raises(ValueError, match=message):
        refine_flows(**{**inputs, **changes})


def test_refuses_small_tensors():
    image = torch.zeros(1, 3, 15, 20)
    with pytest.raises(ValueError, match="at least 16"):
        refine_flows(image, image, image[:, :2])
