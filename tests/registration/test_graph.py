"""Registration of several scans: loop closure, and rejection of wrong pairs."""

import numpy as np
import pytest

from flowmatch.geometry import invert_motion, transform_points
from flowmatch.registration import RegisterOptions
from flowmatch.registration.graph import RelativeMotion, register_many, solve_poses
from tests.registration.scenes import balls, errors, motion, part, room


def test_three_parts_of_a_room_and_an_unrelated_scan():
    cloud = room()
    truths = [motion(seed) for seed in range(4)]
    parts = [part(cloud, *ends, seed) for seed, ends in enumerate([(0, 2.4), (0.8, 3.2), (1.6, 4)])]
    parts.append(balls(3))
    scans = [transform_points(truth, cloud) for truth, cloud in zip(truths, parts, strict=True)]
    steps = []
    result = register_many(
        scans,
        model="fpfh",
        options=RegisterOptions(voxel=0.06),
        progress=lambda *step: steps.append(step),
    )
    assert result.placed.tolist() == [True, True, True, False]
    assert not result.trusted
    assert result.anchor == 0
    for k in range(3):
        assert errors(result.motions[k] @ truths[k], truths[0])[1] < 0.05
    used = {(edge.source, edge.target) for edge in result.edges if edge.used}
    assert used >= {(0, 1), (1, 2)}
    assert not any(3 in pair for pair in used)
    assert steps[0] == ("describe", 0, 4)
    assert steps[-1] == ("register", 6, 6)


def chain(count, drift):
    """Return the true motions of a ring of scans, and its edges with drift."""
    rng = np.random.default_rng(0)
    truths = [motion(seed) for seed in range(count)]
    edges = []
    for k in range(count):
        following = (k + 1) % count
        step = invert_motion(truths[following]) @ truths[k]
        step[:3, 3] += drift * rng.normal(size=3)
        edges.append(RelativeMotion(k, following, step, rng.normal(size=(30, 3)), 10.0))
    return truths, edges


def test_a_loop_distributes_its_error():
    truths, edges = chain(6, 0.05)
    open_ended, _, anchor = solve_poses(6, edges[:-1], 0.1)
    closed, placed, _ = solve_poses(6, edges, 0.1)
    assert placed.all()
    assert anchor == 0

    def gap(motions):
        edge = edges[-1]
        a = transform_points(motions[edge.source], edge.points)
        b = transform_points(motions[edge.target] @ edge.motion, edge.points)
        return np.linalg.norm(a - b, axis=1).mean()

    assert gap(closed) < gap(open_ended) / 2
    distances = [errors(invert_motion(truths[0]) @ truths[k], closed[k])[1] for k in range(6)]
    assert max(distances) < 0.6


def test_exact_edges_give_exact_poses():
    truths, edges = chain(5, 0.0)
    result, *_ = solve_poses(5, edges, 0.1)
    for k in range(5):
        np.testing.assert_allclose(result[k], invert_motion(truths[0]) @ truths[k], atol=1e-6)


def test_the_largest_group_is_placed():
    _, edges = chain(6, 0.0)
    _, placed, anchor = solve_poses(6, [edges[0], edges[3], edges[4]], 0.1)
    assert placed.tolist() == [False, False, False, True, True, True]
    assert anchor == 3


def test_errors():
    cloud = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(ValueError, match="two or more scans"):
        register_many([cloud], model="fpfh")
    few = RegisterOptions(voxel=0.1)
    with pytest.raises(ValueError, match="scan 3 of 3 needs 10 points, got . at voxels of 0.1"):
        register_many([cloud, cloud, cloud / 1000], model="fpfh", options=few)
    with pytest.raises(ValueError, match="scan 2 of 2 must be"):
        register_many([cloud, cloud[:, :2]], model="fpfh")
    with pytest.raises(ValueError, match="must fit 2 scans"):
        register_many([cloud, cloud], model="fpfh", pairs=[(0, 2)])
