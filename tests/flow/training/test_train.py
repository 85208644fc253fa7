"""Training of flow networks: samples, and a few steps that lower the loss."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from flowmatch import training
from flowmatch.flow.networks import MODELS
from flowmatch.flow.synthetic.pairs import SyntheticFlow
from flowmatch.flow.synthetic.plan import Plan
from flowmatch.flow.synthetic.scene import FlowSample
from flowmatch.flow.synthetic.sources import Sources
from flowmatch.flow.training.losses import LOSSES
from flowmatch.flow.training.recipes import RECIPES
from flowmatch.flow.training.train import (
    collate,
    collate_plans,
    find_samples,
    flow_loss,
    render_batch,
    train_flow,
)
from flowmatch.io import write_flow, write_image
from flowmatch.training import Schedule


@pytest.fixture
def pairs(tmp_path, photo):
    for name in ("a", "b"):
        (tmp_path / "real" / name).mkdir(parents=True)
        for frame in ("frame1.png", "frame2.png"):
            write_image(tmp_path / "real" / name / frame, photo[:100, :120])
        write_flow(tmp_path / "real" / name / "flow.flo", np.full((100, 120, 2), 500.0))
    return tmp_path / "real"


def small(name, **changes):
    return replace(RECIPES[name], schedule=Schedule(2, batch=2), size=(64, 64), **changes)


def test_datasets_are_half_of_the_pairs(pairs):
    """Real pairs are recognised by a flow that no synthetic pair has."""
    samples = find_samples(small("pyramid-small"), Sources(), {"mine": pairs}, None)
    real = [np.abs(samples[i].flow).max() > 250 for i in range(60)]
    assert 0.3 < np.mean(real) < 0.7


def test_mixing_recipes_take_their_datasets_only(pairs):
    recipe = small("pyramid-small", mix=(("chairs", 1.0), ("things", 3.0)))
    data = {"chairs": pairs, "things": pairs}
    samples = find_samples(recipe, Sources(), data, None)
    assert [weight for _, weight in samples.parts] == [1.0, 3.0]
    with pytest.raises(ValueError, match="trained on chairs, things: .* got chairs"):
        find_samples(recipe, Sources(), {"chairs": pairs}, None)


def test_learns_from_a_dataset(pairs, tmp_path):
    recipe = small("pyramid-small", mix=(("mine", 1.0),))
    reports = []
    train_flow(
        recipe,
        Sources(),
        tmp_path / "c.pt",
        data={"mine": pairs},
        workers=0,
        on_step=reports.append,
    )
    assert reports[0].metrics["epe"] == pytest.approx(500 * 2**0.5, rel=0.5)


def test_learns_from_a_video(tmp_path, photo):
    (tmp_path / "clip").mkdir()
    for t in range(3):
        write_image(tmp_path / f"clip/{t}.png", photo[:80, 2 * t : 2 * t + 96])
    recipe, reports = small("pyramid-video"), []
    model = train_flow(
        recipe, Sources(), tmp_path / "c.pt", video=tmp_path / "clip", workers=0,
        on_step=reports.append,
    )  # fmt: skip
    assert all(p.isfinite().all() for p in model.parameters())
    assert [set(p.metrics) for p in reports] == [{"loss", "smoothness", "occluded"}] * 2


def test_synthetic_pairs_are_plans_when_the_device_renders(pairs, device):
    """Real pairs are mixed in unchanged, and synthetic pairs are used once."""
    recipe = small("pyramid-small", reuse=3)
    samples = find_samples(recipe, Sources(), {"mine": pairs}, None, "device")
    batch = [samples[i] for i in range(6)]
    assert {type(sample) for sample in batch} == {Plan, FlowSample}
    target = torch.device(device)
    first, second, flow = render_batch(collate_plans(batch), target)
    assert first.shape == second.shape == (6, 3, 64, 64)
    assert first.dtype == torch.uint8
    assert flow.device.type == device
    real = sum(isinstance(sample, FlowSample) for sample in batch)
    assert (flow.flatten(1).abs().amax(1) > 250).sum() == real
    for part in (batch[:real], [s for s in batch if isinstance(s, FlowSample)]):
        assert len(render_batch(collate_plans(part), target)[2]) == real


def test_where_to_render_is_checked():
    with pytest.raises(ValueError, match="render must be one of workers, device, got 'gpu'"):
        find_samples(RECIPES["pyramid-small"], Sources(), {}, None, "gpu")
    for name in ("pyramid-video", "flownets-long"):
        with pytest.raises(ValueError, match="no synthetic pairs to render on a device"):
            find_samples(RECIPES[name], Sources(), {}, None, "device")


@pytest.mark.parametrize("workers", [0, 1])
def test_resumes_to_the_same_bits_when_the_device_renders(tmp_path, workers, monkeypatch):
    class Stop(Exception):
        pass

    def stop_at_1(progress):
        raise Stop

    monkeypatch.setattr(training, "train", partial(training.train, every=1))
    recipe = small("pyramid-small")
    settings = {"workers": workers, "render": "device"}
    whole = train_flow(recipe, Sources(), tmp_path / "a.pt", **settings)
    with pytest.raises(Stop):
        train_flow(recipe, Sources(), tmp_path / "b.pt", on_step=stop_at_1, **settings)
    resumed = train_flow(recipe, Sources(), tmp_path / "b.pt", resume=True, **settings)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="belongs to another run"):
        train_flow(recipe, Sources(), tmp_path / "b.pt", resume=True, workers=0)


@pytest.mark.parametrize(
    ("name", "data", "video", "message"),
    [
        ("pyramid-video", {}, None, "on a video only: give --clip"),
        ("pyramid-small", {}, "clip.mp4", "trained on true flow, and takes no --clip"),
        ("flownets-long", {}, None, "trained on chairs: give each as --data NAME:FOLDER, got non"),
    ],
)
def test_missing_inputs_of_a_recipe_are_named(name, data, video, message):
    with pytest.raises(ValueError, match=message):
        find_samples(RECIPES[name], Sources(), data, video)


@pytest.mark.parametrize(("name", "video"), [("pyramid-video", "a.mp4"), ("flownets-long", None)])
def test_pictures_are_refused_by_recipes_without_synthetic_pairs(name, video, photo):
    for sources in (Sources([photo]), Sources(cutouts=[photo])):
        with pytest.raises(
            ValueError, match="no synthetic pairs, and takes no --photos and no --cutouts"
        ):
            find_samples(RECIPES[name], sources, {}, video)


def test_collate():
    first, second, flow = collate([SyntheticFlow(size=(32, 48))[i] for i in range(2)])
    assert first.shape == second.shape == (2, 3, 32, 48)
    assert first.dtype == torch.uint8
    assert flow.shape == (2, 2, 32, 48)
    torch.testing.assert_close(flow[1, 0].numpy(), SyntheticFlow(size=(32, 48))[1].flow[..., 0])


def test_epe_of_the_finest_flow():
    class Constant(torch.nn.Module):
        def forward(self, first, second):
            return [torch.full((1, 2, 8 // s, 8 // s), 3.0 / s) for s in (4, 8, 8, 8, 8)]

    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    truth = torch.tensor([3.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 8, 8)
    _, metrics = flow_loss(
        Constant(), [image, image, truth], loss=LOSSES["robust"], weights=[1.0] * 5
    )
    assert metrics["epe"] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("recipe", "arguments"),
    [("pyramid-small", {}), ("flownets-thin", {"width": 1 / 8})],
    ids=str,
)
def test_twenty_steps_lower_the_loss(recipe, arguments):
    """All steps use the same four pairs, so that their losses are comparable."""
    losses = []
    pairs = SyntheticFlow(size=(64, 64), motion=((0.5, 1.0),))
    batch = collate([pairs[i] for i in range(4)])
    torch.manual_seed(0)
    chosen = RECIPES[recipe]
    network = MODELS[chosen.model](**arguments)
    loss_of = {"loss": LOSSES[chosen.loss], "weights": chosen.loss_weights}
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(20):
        loss, _ = flow_loss(network, batch, **loss_of)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_train_flow_end_to_end(tmp_path):
    recipe = replace(RECIPES["pyramid-small"], schedule=Schedule(2, batch=2), size=(64, 64))
    model = train_flow(recipe, Sources(), tmp_path / "c.pt", workers=0)
    assert not model.training
    start = {key: value.clone() for key, value in model.state_dict().items()}
    again = train_flow(recipe, Sources(), tmp_path / "d.pt", start=start, workers=0)
    assert any(not torch.equal(start[k], v) for k, v in again.state_dict().items())
    resumed = train_flow(recipe, Sources(), tmp_path / "d.pt", resume=True, workers=0)
    for a, b in zip(again.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_goes_on_with_what_it_learnt_from_alone(pairs, photo, tmp_path):
    """Also from a checkpoint of the version before, which does not tell."""
    file, recipe = tmp_path / "c.pt", small("pyramid-small", mix=(("mine", 1.0),))
    options = {"workers": 0, "resume": True}
    train_flow(recipe, Sources(), file, data={"mine": pairs}, **options)
    with pytest.raises(ValueError, match="run: precision is 'bfloat16' there and 'float32' here$"):
        train_flow(recipe, Sources(), file, data={"mine": pairs}, precision="float32", **options)
    moved = pairs.rename(tmp_path / "moved")
    train_flow(recipe, Sources(), file, data={"mine": moved}, **options)
    write_image(moved / "a" / "frame1.png", photo[:100, 20:140])
    with pytest.raises(ValueError, match=r"run: data_digest\.mine is '6 \(\w+\)' there and '6 "):
        train_flow(recipe, Sources(), file, data={"mine": moved}, **options)
    kept = training.load_checkpoint(file)
    for name in ("precision", "data_digest", "passes"):
        del kept["run"][name]
    training.save_checkpoint(file, kept)
    train_flow(recipe, Sources(), file, data={"mine": moved}, **options)


def test_weights_to_start_from_have_to_fit(tmp_path):
    start = MODELS["pyramid"]().state_dict()
    del start["blend.bias"]
    with pytest.raises(ValueError, match="start does not fit pyramid: blend.bias is missing"):
        train_flow(small("pyramid-small"), Sources(), tmp_path / "c.pt", start=start)


def test_raft_learns_in_few_passes_and_keeps_its_own(tmp_path):
    recipe = small("raft-small-near", passes=2, loss_weights=(1.0, 0.8))
    trained = train_flow(recipe, Sources(), tmp_path / "c.pt", workers=0)
    assert trained.iterations == MODELS["raft-small"]().iterations == 12


@pytest.mark.parametrize("name", ["flownets-thin-small", "flownetc-thin-small"])
def test_norms_and_hooks_are_gone_after_training(name, tmp_path):
    recipe = small(name, arguments={"width": 1 / 16})
    reports = []
    trained = train_flow(recipe, Sources(), tmp_path / "c.pt", workers=0, on_step=reports.append)
    plain = MODELS[recipe.model](width=1 / 16)
    assert trained.state_dict().keys() == plain.state_dict().keys()
    assert not any(module._forward_hooks for module in trained.modules())
    again = train_flow(recipe, Sources(), tmp_path / "c.pt", workers=0, resume=True)
    for key, value in trained.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    with pytest.raises(ValueError, match="takes no weights to start"):
        train_flow(recipe, Sources(), tmp_path / "d.pt", start=plain.state_dict())


def test_matching_adds_to_the_loss_and_needs_whole_strides(tmp_path):
    losses = []
    for matching in (0.0, 2.0):
        recipe = small("flownetc-thin-small", arguments={"width": 1 / 16}, matching=matching)
        file = tmp_path / f"{matching}.pt"
        train_flow(recipe, Sources(), file, workers=0, on_step=lambda p: losses.append(p.metrics))
    assert losses[2]["loss"] - losses[0]["loss"] > 2  # 441 displacements: up to log(441) twice
    assert losses[2]["epe"] == losses[0]["epe"]
    with pytest.raises(ValueError, match=r"multiples of 64, got \(64, 96\)"):
        replace(recipe, size=(64, 96))


def test_the_choice_and_the_global_match_add_to_the_loss(tmp_path):
    """Equal scores of two flows, and of three at 1/8 where one is given: log(2) and log(3)."""
    first = {}
    for name, weights in {"none": (0, 0), "choice": (0, 1), "matching": (1, 0)}.items():
        matching, choice = weights
        recipe = small("recurrent-choice", matching=matching, choice=choice)
        reports = []
        train_flow(recipe, Sources(), tmp_path / f"{name}.pt", workers=0, on_step=reports.append)
        first[name] = reports[0].metrics
    assert {metrics["epe"] for metrics in first.values()} == {first["none"]["epe"]}
    added = {name: metrics["loss"] - first["none"]["loss"] for name, metrics in first.items()}
    assert math.log(2) * 0.99 < added["choice"] < math.log(2) + math.log(3)
    assert added["matching"] > 1
    with pytest.raises(ValueError, match=r"multiples of 32, got \(64, 72\)"):
        replace(recipe, size=(64, 72))


def test_a_share_of_the_initial_weights_is_kept(tmp_path):
    """But for the layers that begin anew."""
    results = {}
    start = MODELS["recurrent-pyramid"]().state_dict()
    for kept in (0.0, 0.7):
        recipe = small("recurrent-choice", kept=kept)
        trained = train_flow(recipe, Sources(), tmp_path / f"{kept}.pt", workers=0, start=start)
        results[kept] = trained.state_dict()
    for key, initial in start.items():
        trained, mixed = results[0.0][key], results[0.7][key]
        expected = trained if key.startswith("choose_") else 0.7 * initial + 0.3 * trained
        torch.testing.assert_close(mixed, expected)


@pytest.mark.parametrize("name", ["matching", "choice"])
def test_a_loss_without_its_layer_is_refused(tmp_path, name):
    recipe = small("pyramid-small", **{name: 1.0})
    with pytest.raises(ValueError, match=f"pyramid has no layer for the loss {name}"):
        train_flow(recipe, Sources(), tmp_path / "c.pt", workers=0)
