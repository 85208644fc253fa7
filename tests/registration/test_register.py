"""Registration of scans whose motion is known."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from torch import nn

from flowmatch.geometry import invert_motion, transform_points
from flowmatch.io import read_cloud
from flowmatch.registration import MODELS, RegisterOptions, refine_motion, register_scans
from flowmatch.registration.agreement import agreement, inverse_normal_frequency
from flowmatch.registration.icp import Refiner
from flowmatch.registration.keypoints import voxel_down
from flowmatch.registration.normals import estimate_normals
from flowmatch.registration.prepare import prepare_scan
from tests.registration.scenes import balls, errors, motion, part, room


@pytest.fixture(scope="module")
def scans():
    cloud = room()
    return part(cloud, 0, 2.8, 1), part(cloud, 1.2, 4, 2)


@pytest.mark.parametrize("seed", range(3))
def test_halves_of_a_room_from_any_initial_rotation(scans, seed):
    truth = motion(seed)
    result = register_scans(
        scans[0],
        transform_points(truth, scans[1]),
        model="fpfh",
        options=RegisterOptions(voxel=0.05, seed=seed),
    )
    angle, distance = errors(result.motion, truth)
    assert angle < 0.5
    assert distance < 0.03
    assert result.trusted, result.reason
    # The parts share 1.6 of the 2.8 units that each spans.
    assert 0.45 < result.overlap < 0.75
    assert result.rmse < 0.02
    ends = result.correspondences[result.inliers]
    error = np.linalg.norm(transform_points(truth, ends[:, 0]) - ends[:, 1], axis=1)
    assert (error < 3 * result.voxel).mean() > 0.9
    assert "correspondences agree" in result.reason


def test_results_are_reproducible(scans):
    first, second = (
        register_scans(*scans, model="fpfh", options=RegisterOptions(voxel=0.05, icp="icp"))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.motion, second.motion)


def test_scans_of_different_things_are_not_trusted(scans):
    for seed in range(3):
        options = RegisterOptions(voxel=0.05, seed=seed)
        result = register_scans(
            scans[0], transform_points(motion(seed), balls(seed)), model="fpfh", options=options
        )
        assert not result.trusted, result.reason


def test_planes_are_degenerate_and_not_trusted():
    rng = np.random.default_rng(0)
    plane = rng.uniform(0, 1, (2000, 3)) * [1, 1, 0] + 0.002 * rng.normal(size=(2000, 3))
    result = register_scans(plane, transform_points(motion(0), plane + [0.2, 0, 0]), model="fpfh")
    assert not result.trusted


def test_a_network_as_the_descriptor(scans):
    network = MODELS["slim"](4, 8)  # random weights are discriminative to some degree
    steps = []
    options = RegisterOptions(keypoints=60, voxel=0.05)
    result = register_scans(
        *scans, model=network, options=options, progress=lambda *step: steps.append(step)
    )
    assert result.motion.shape == (4, 4)
    assert steps == [("describe", 60, 60)] * 2
    assert result.correspondences.shape == (len(result.inliers), 2, 3)


@pytest.mark.parametrize("method", ["icp", "auto"])
def test_refinement_reaches_the_millimetre(scans, method):
    truth = motion(5)
    start = np.eye(4)
    start[:3, :3] = Rotation.from_rotvec([0.01, 0, 0.02]).as_matrix()
    start[:3, 3] = [0.04, -0.03, 0.02]
    start = truth @ start
    result = refine_motion(scans[0], transform_points(truth, scans[1]), start, 0.15, method=method)
    assert errors(result, truth)[1] < 0.01
    assert errors(start, truth)[1] > 0.05


def test_refinement_without_correspondences_changes_nothing(scans):
    far = np.eye(4)
    far[:3, 3] = 500
    for method in ("icp", "auto"):
        result = Refiner(*scans, method)(far, 0.1)
        np.testing.assert_allclose(result, far, atol=1e-9)


def test_agreement_of_a_plane_is_rank_three():
    rng = np.random.default_rng(0)
    plane = rng.uniform(-1, 1, (900, 3)) * [1, 1, 0]
    up = np.tile([0.0, 0, 1], (900, 1))
    fit = agreement(plane, up, plane, up, np.eye(4), 0.1)
    values = np.linalg.eigvalsh(fit.information)
    np.testing.assert_allclose(
        values[:3], 0, atol=1e-12
    )  # two translations and a rotation are unconstrained
    assert values[3] > 0.3
    assert fit.slip_eigenvalue == pytest.approx(0, abs=1e-12)
    assert (fit.overlap, fit.balanced, fit.rmse) == (1, 1, 0)
    crossed = agreement(plane, up, plane, np.roll(up, 1, axis=1), np.eye(4), 0.1)
    assert crossed.overlap == 0


def test_balanced_weights_sum_to_the_same_for_each_direction():
    normals = np.repeat(np.eye(3), [80, 15, 5], axis=0)
    weights = inverse_normal_frequency(normals)
    shares = [weights[start:stop].sum() for start, stop in ((0, 80), (80, 95), (95, 100))]
    np.testing.assert_allclose(shares, 100)


def test_the_number_of_keypoints_is_limited():
    cloud = np.random.default_rng(0).uniform(size=(300, 3))
    network = MODELS["slim"](1, 3)
    few = RegisterOptions(keypoints=5)
    assert prepare_scan(cloud, 0.1, network, few).descriptors.shape == (5, 3)
    assert prepare_scan(cloud, 0.1, "fpfh", few).descriptors.shape[0] == 5
    assert prepare_scan(cloud, 0.1, "fpfh").descriptors.shape[0] > 200
    with pytest.raises(ValueError, match="at least 3 keypoints, 1 trial .* got 2, 400000"):
        RegisterOptions(keypoints=2)


def test_errors():
    cloud = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(ValueError, match="each scan needs 10 points, got 50 and 3"):
        register_scans(cloud, cloud[:3], model="fpfh")
    dense = np.random.default_rng(1).normal(size=(50, 3)) / 1000  # one voxel
    with pytest.raises(ValueError, match="the second scan needs 10 points, got . at voxels of 0.1"):
        register_scans(cloud, dense, model="fpfh", options=RegisterOptions(voxel=0.1))
    with pytest.raises(ValueError, match="module or 'fpfh', got 'sift'"):
        prepare_scan(cloud, 0.1, "sift")
    with pytest.raises(ValueError, match="no weights named 'sift' ship"):
        register_scans(cloud, cloud, model="sift")
    with pytest.raises(ValueError, match="model must be a FieldDescriptor, got Identity"):
        register_scans(cloud, cloud, model=nn.Identity())
    with pytest.raises(ValueError, match=r"target must be \[N, 3\]"):
        register_scans(cloud, cloud[:, :2], model="fpfh")
    with pytest.raises(ValueError, match="all in one place"):
        register_scans(cloud, np.zeros((50, 3)), model="fpfh")
    with pytest.raises(ValueError, match="sampling must be"):
        RegisterOptions(sampling="harris")
    with pytest.raises(ValueError, match="method must be one of auto, gicp, icp"):
        refine_motion(cloud, cloud, np.eye(4), 1, method="ndt")
    with pytest.raises(ValueError, match="rigid"):
        refine_motion(cloud, cloud, 2 * np.eye(4), 1)


def test_indoor_pair(shared_data):
    folder = shared_data / "registration" / "indoor_pair"
    if not folder.is_dir():
        pytest.skip("registration/indoor_pair is missing")
    source, target = (read_cloud(folder / f"{name}.npy") for name in ("src", "ref"))
    truth = np.load(folder / "gt.npy")
    start = motion(1)
    result = register_scans(
        transform_points(start, source), target, model="fpfh", options=RegisterOptions(seed=1)
    )
    angle, distance = errors(result.motion @ start, truth)
    assert result.trusted, result.reason
    assert angle < 2
    # The recorded motion itself is a few centimetres off the best fit of the surfaces.
    assert distance < 0.12
    assert invert_motion(result.motion)[3].tolist() == [0, 0, 0, 1]


def test_the_best_fit_of_the_indoor_pair(shared_data):
    """Refinement in either direction improves on the recorded motion."""
    folder = shared_data / "registration" / "indoor_pair"
    if not folder.is_dir():
        pytest.skip("registration/indoor_pair is missing")
    ends = [voxel_down(read_cloud(folder / f"{name}.npy"), 0.04) for name in ("src", "ref")]
    normals = [estimate_normals(points, 0.1, viewpoint=[0, 0, 0]) for points in ends]
    truth = np.load(folder / "gt.npy").astype(float)
    forward = refine_motion(*ends, truth, 0.1, method="icp")
    backward = invert_motion(refine_motion(*ends[::-1], invert_motion(truth), 0.1, method="icp"))
    shared = agreement(ends[0], normals[0], ends[1], normals[1], truth, 0.05)
    for result in (forward, backward):
        fit = agreement(ends[0], normals[0], ends[1], normals[1], result, 0.05)
        assert fit.rmse < 0.9 * shared.rmse
        centre = [-0.47, -0.41, 2.22]  # of the overlap
        distance = np.linalg.norm(
            transform_points(result, [centre]) - transform_points(truth, [centre])
        )
        assert 0.03 < distance < 0.08
