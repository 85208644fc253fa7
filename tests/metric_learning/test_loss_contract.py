"""Properties that all losses share: degenerate batches, types, gradients, argument checks."""

import inspect
import math
import sys

import pytest
import torch

from flowmatch.metric_learning import losses
from flowmatch.metric_learning.losses import LOSSES, make_loss
from flowmatch.metric_learning.tuples import all_triplets

D, CLASSES = 4, 3


def degenerate():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, generator=generator)
    four = torch.arange(4).repeat_interleave(2)
    return {
        "one class": (x, torch.zeros(8, dtype=torch.int64)),
        "one of each class": (x, torch.arange(8)),
        "duplicates": (x[:1].repeat(8, 1), four),
        "some duplicates": (x[[0, 0, 0, 0, 4, 5, 6, 7]], four),
        "two": (torch.tensor([[1.0], [2.0]]).repeat(1, 1), torch.tensor([0, 1])),
        "nearly the same": (x[:1] + 1e-7 * x, four),
    }


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize("name", LOSSES)
def test_degenerate_batches_give_finite_gradients(name, case):
    x, y = degenerate()[case]
    if name == "snr" and x.shape[1] == 1:
        x = torch.cat([x, -x], 1)  # one dimension has no variance and is refused
    x = x.clone().requires_grad_()
    loss = make_loss(name, classes=8, dimension=x.shape[1])
    value = loss(x, y)
    assert value.shape == () and value.isfinite()
    value.backward()
    for tensor in (x, *loss.parameters()):
        assert tensor.grad is None or tensor.grad.isfinite().all()
    assert x.grad is not None


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_an_empty_batch_is_0(name):
    x = torch.zeros(0, D, requires_grad=True)
    value = make_loss(name, classes=CLASSES, dimension=D)(x, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value.item() == 0 and x.grad.shape == (0, D)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", LOSSES)
def test_embeddings_that_are_not_finite_give_nan(name, value, batch):
    x = torch.full_like(batch[0], value).requires_grad_()
    result = make_loss(name, classes=CLASSES, dimension=D)(x, batch[1])
    result.backward()
    assert result.isnan() and x.grad.isnan().all()


# The weights of the circle loss have no gradient, by its definition.
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "circle"])
def test_gradients_are_those_of_the_value(name, batch):
    x, y = batch[0][:, :3].clone().requires_grad_(), batch[1]
    loss = make_loss(name, classes=CLASSES, dimension=3).double()

    def value(x):
        torch.manual_seed(5)  # the group loss samples its anchors
        return loss(x, y)

    assert torch.autograd.gradcheck(value, (x,))


@pytest.mark.parametrize("name", LOSSES)
def test_half_types_are_computed_in_float32(name, batch):
    x, y = batch[0].bfloat16(), batch[1]
    torch.manual_seed(0)
    loss = make_loss(name, classes=CLASSES, dimension=D)
    torch.manual_seed(1)
    full = loss(x.float(), y)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        half = loss(x.float(), y)
    torch.manual_seed(1)
    torch.testing.assert_close(half, full)
    torch.testing.assert_close(loss(x, y), full)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_half_types_are_those_of_float32(name, dtype, batch):
    """Also where squares overflow float16."""
    for scale in (1.0, 300.0, 1e4):
        gradients = []
        for wide in (False, True):
            x = (scale * batch[0]).to(dtype)
            x = (x.float() if wide else x).requires_grad_()
            torch.manual_seed(0)
            make_loss(name, classes=CLASSES, dimension=D)(x, batch[1]).backward()
            gradients.append(x.grad)
        half, full = gradients
        largest = full.abs().max().item()
        full = full.to(dtype)  # one loss has gradients beyond the largest of float16
        torch.testing.assert_close(half, full, rtol=0.01, atol=0.001 * largest + 1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_descent_separates_classes(name):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(6).repeat_interleave(2)
    x = torch.randn(12, 4, generator=generator).requires_grad_()
    loss = make_loss(name, classes=6, dimension=4)
    optimizer = torch.optim.Adam([x, *loss.parameters()], lr=0.05)

    def separation():
        f = torch.nn.functional.normalize(x.detach(), dim=1)
        same = y[:, None] == y
        return ((f @ f.T)[same].mean() - (f @ f.T)[~same].mean()).item()

    before, first = separation(), loss(x, y).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()
    if name not in (
        "softtriple",
        "sub-centre-arcface",
    ):  # a class of several centres need not become one cluster
        assert separation() > before
    assert loss(x, y).item() < first - 0.2 * abs(first)


def test_arguments_that_do_not_fit_are_refused(batch):
    x, y = batch
    loss = losses.HadsellLoss()
    with pytest.raises(ValueError, match=r"embeddings must be floats \[N, D\], got .*\(9,\)"):
        loss(x[:, 0], y)
    with pytest.raises(ValueError, match=r"labels must be whole numbers \[9\], got .*\(8,\)"):
        loss(x, y[:8])
    with pytest.raises(ValueError, match="labels must be whole numbers"):
        loss(x, y.double())
    with pytest.raises(ValueError, match="FastAPLoss compares the whole batch and takes no tuples"):
        losses.FastAPLoss()(x, y, all_triplets(y))
    with pytest.raises(ValueError, match="margin must be at least 0, got -1"):
        losses.TripletLoss(-1)
    with pytest.raises(ValueError, match="D of 2 or more"):
        losses.SNRLoss()(x[:, :1], y)
    with pytest.raises(ValueError, match="loss must be one of contrastive, .*got 'quadruplet'"):
        make_loss("quadruplet", classes=2, dimension=2)
    with pytest.raises(ValueError, match="loss triplet takes margin, got scale"):
        make_loss("triplet", classes=2, dimension=2, scale=3)


@pytest.mark.parametrize(
    "name",
    [
        "margin", "proxynca", "proxynca++", "softtriple", "normalised-softmax", "cosface",
        "arcface", "group", "proxy-anchor", "sub-centre-arcface",
    ],
)  # fmt: skip
def test_labels_without_parameters_are_refused(name, batch):
    loss = make_loss(name, classes=2, dimension=D)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1, got 0\.\.2"):
        loss(*batch)


def test_without_the_library(monkeypatch, batch):
    for name in list(sys.modules):
        if name.split(".")[0] == "pytorch_metric_learning":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(ImportError, match=r"pytorch-metric-learning.*flowmatch\[train\]"):
        make_loss("triplet", classes=2, dimension=2)
    assert make_loss("hadsell", classes=2, dimension=2)(*batch) > 0


@pytest.mark.parametrize("value", [1.5, math.inf, math.nan])
def test_counts_must_be_whole_numbers(value):
    assert make_loss("fastap", classes=3, dimension=D, bins=8.0) is not None
    with pytest.raises(
        ValueError, match=f"bins of loss fastap must be a whole number, got {value}"
    ):
        make_loss("fastap", classes=3, dimension=D, bins=value)


@pytest.mark.parametrize(
    "name", [name for name in LOSSES if "dimension" in inspect.signature(LOSSES[name]).parameters]
)
def test_embeddings_of_another_dimension_are_refused(name):
    loss = make_loss(name, classes=2, dimension=8)
    with pytest.raises(ValueError, match=r"embeddings must have .*dimension 8.*, got 4"):
        loss(torch.randn(4, 4), torch.tensor([0, 0, 1, 1]))
