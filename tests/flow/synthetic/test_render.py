"""Pairs rendered by torch: equal to NumPy's, repeatable, and independent of their batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowmatch.flow.synthetic import packing
from flowmatch.flow.synthetic.packing import pack_plans
from flowmatch.flow.synthetic.pairs import SyntheticFlow
from flowmatch.flow.synthetic.plan import Flip, Plan, render_pair
from flowmatch.flow.synthetic.render import render_plans
from flowmatch.flow.synthetic.scene import Layer, Motion, Scene, translate
from flowmatch.flow.synthetic.sources import Sources

MOTION = ((1.0, 0.5), (5.0, 0.5))


@pytest.fixture(scope="module")
def pairs(photo):
    cutout = np.zeros((60, 80, 4), np.uint8)
    cutout[10:50, 10:70] = (200, 30, 30, 255)
    return SyntheticFlow(Sources([photo], [cutout], procedural=0.0), (64, 96), MOTION, seed=3)


def test_renders_like_numpy(pairs, device):
    """Flat scenes, boxes, deformations and flips, with all effects but compression."""
    plans = [pairs.plan(index) for index in range(12)]
    plans = [replace(plan, effects=replace(plan.effects, quality=None)) for plan in plans]
    for plan, result in zip(plans, render_plans(pack_plans(plans), device).samples(), strict=True):
        expected = render_pair(plan)
        np.testing.assert_allclose(result.flow, expected.flow, atol=1e-3)
        both = (result.occluded & expected.occluded).sum()
        assert both >= 0.99 * (result.occluded | expected.occluded).sum()
        for a, b in ((result.first, expected.first), (result.second, expected.second)):
            assert np.abs(a.astype(int) - b).mean() < 0.5
    layers = [layer for plan in plans for layer in plan.scene.layers]
    assert any(layer.deformation for layer in layers)
    assert any(plan.effects.shutter for plan in plans)
    assert {plan.scene.camera == Motion() for plan in plans} == {
        True,
        False,
    }  # boxes and flat scenes
    assert len({plan.flip for plan in plans}) > 3


def test_flow_explains_the_second_frame(pairs, only, fetch_back):
    plans = [Plan(pairs.plan(index).scene, only(), Flip()) for index in range(8)]
    before, after = [], []
    for first, second, flow, hidden, *_ in render_plans(pack_plans(plans)).samples():
        first, second = first.astype(np.float32), second.astype(np.float32)
        before.append(np.abs(second - first)[~hidden].mean())
        after.append(np.abs(fetch_back(second, flow) - first)[~hidden].mean())
    assert np.mean(after) < 0.35 * np.mean(before)


def test_flow_of_a_translated_square(photo, only):
    """Worked by hand: the square occupies rows 40..59, columns 30..49 and moves by (7, -3)."""
    square = Layer(np.full((20, 20, 3), 250, np.uint8), translate(30, 40),
                   Motion(translation=(7, -3)), np.full((20, 20), 255, np.uint8))  # fmt: skip
    scene = Scene((120, 160), (Layer(photo, np.eye(3)), square))
    plan = Plan(scene, only(), Flip(across=True, order=(2, 1, 0)))
    sample = render_plans(pack_plans([plan])).samples()[0]
    inside = np.zeros((120, 160), bool)
    inside[40:60, 110:130] = True
    assert (sample.first[inside] == 250).all()
    assert (sample.flow[inside] == [-7, -3]).all()
    assert (sample.flow[~inside] == 0).all()
    assert (sample.first[~inside] == photo[:120, :160][:, ::-1, ::-1][~inside]).all()
    covered = np.zeros((120, 160), bool)
    covered[37:57, 103:123] = True
    assert (sample.occluded == (covered & ~inside)).all()


def test_a_texture_smaller_than_the_frame_is_mirrored(photo, only):
    camera = Motion((48, 32), (3, -2), rotation=0.1)
    scene = Scene((64, 96), (Layer(photo[100:120, 200:230], translate(37, 21)),), camera)
    plan = Plan(scene, only(), Flip())
    result, expected = render_plans(pack_plans([plan])).samples()[0], render_pair(plan)
    for a, b in ((result.first, expected.first), (result.second, expected.second)):
        assert np.abs(a.astype(int) - b).max() <= 1


def test_points_outside_the_frame_or_behind_the_camera_are_occluded(photo, only):
    away = Motion(translation=(10, 0)), Motion((25, 30), perspective=(0.1, 0.0))
    plans = [
        Plan(Scene((50, 60), (Layer(photo, np.eye(3)),), camera), only(), Flip()) for camera in away
    ]
    batch = render_plans(pack_plans(plans))
    assert batch.occluded[0, :, 50:].all()
    assert not batch.occluded[0, :, :50].any()
    assert batch.occluded[1, :, :15].all()
    assert batch.flow.isfinite().all()


@pytest.mark.parametrize("pixels", [1, 10_000, packing.PIXELS_AT_ONCE])
def test_a_pair_does_not_depend_on_its_batch(pairs, device, pixels, monkeypatch):
    monkeypatch.setattr(packing, "PIXELS_AT_ONCE", pixels)
    plans = [pairs.plan(index, seeded=True) for index in (0, 2, 4, 7)]
    together = render_plans(pack_plans(plans), device)
    for alone, *results in zip(
        (render_plans(pack_plans([plan]), device) for plan in plans), *together, strict=True
    ):
        for single, batched in zip(alone, results, strict=True):
            difference = (single[0].float() - batched.float()).abs()
            # A GPU's convolutions may sum in another order: one level at some pixels.
            assert difference.max() <= (
                1 if device == "cuda" and single.dtype == torch.uint8 else 0
            )


def test_repeats_by_seed(pairs, device):
    first, again = (
        render_plans(pack_plans([pairs.plan(index, seeded=True) for index in range(4)]), device)
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    reseeded = replace(pairs, seed=4)
    another = render_plans(
        pack_plans([reseeded.plan(index, seeded=True) for index in range(4)]), device
    )
    assert not torch.equal(first.first, another.first)
