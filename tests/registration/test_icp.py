"""ICP refinement of motions that are nearly correct."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flowmatch.geometry import invert_motion, transform_points
from flowmatch.io import read_cloud
from flowmatch.registration import estimate_normals, refine_motion, voxel_down
from flowmatch.registration.agreement import agreement
from flowmatch.registration.icp import Refiner
from tests.registration.scenes import errors, motion, part, room


@pytest.fixture(scope="module")
def scans():
    cloud = room()
    return part(cloud, 0, 2.8, 1), part(cloud, 1.2, 4, 2)


def test_refinement_reaches_the_millimetre(scans):
    truth = motion(5)
    start = np.eye(4)
    start[:3, :3] = Rotation.from_rotvec([0.01, 0, 0.02]).as_matrix()
    start[:3, 3] = [0.04, -0.03, 0.02]
    start = truth @ start
    result = refine_motion(scans[0], transform_points(truth, scans[1]), start, 0.15)
    assert errors(result, truth)[1] < 0.01
    assert errors(start, truth)[1] > 0.05


def test_refinement_without_correspondences_changes_nothing(scans):
    far = np.eye(4)
    far[:3, 3] = 500
    result = Refiner(*scans)(far, 0.1)
    np.testing.assert_allclose(result, far, atol=1e-9)


@pytest.mark.parametrize("unit", [1e-3, 1, 1e3])
def test_refinement_does_not_depend_on_the_unit(scans, unit):
    start = np.eye(4)
    start[:3, 3] = [0.04, -0.03, 0.02]
    expected = refine_motion(*scans, start, 0.15)
    start[:3, 3] *= unit
    result = refine_motion(*(unit * scan for scan in scans), start, 0.15 * unit)
    result[:3, 3] /= unit
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_a_sample_of_the_source_is_refined_nearly_as_well(scans):
    truth, start = motion(5), motion(5)
    start[:3, 3] += [0.04, -0.03, 0.02]
    moved = transform_points(truth, scans[1])
    assert errors(Refiner(scans[0], moved, 500)(start, 0.15), truth)[1] < 0.03


def test_the_best_fit_of_the_indoor_pair(shared_data):
    """Refinement in either direction improves on the recorded motion."""
    folder = shared_data / "registration" / "indoor_pair"
    if not folder.is_dir():
        pytest.skip("registration/indoor_pair is missing")
    ends = [voxel_down(read_cloud(folder / f"{name}.npy"), 0.04) for name in ("src", "ref")]
    normals = [estimate_normals(points, 0.1, viewpoint=[0, 0, 0]) for points in ends]
    truth = np.load(folder / "gt.npy").astype(float)
    forward = refine_motion(*ends, truth, 0.1)
    backward = invert_motion(refine_motion(*ends[::-1], invert_motion(truth), 0.1))
    shared = agreement(ends[0], normals[0], ends[1], normals[1], truth, 0.05)
    for result in (forward, backward):
        fit = agreement(ends[0], normals[0], ends[1], normals[1], result, 0.05)
        assert fit.rmse < 0.9 * shared.rmse
        centre = [-0.47, -0.41, 2.22]  # of the overlap
        distance = np.linalg.norm(
            transform_points(result, [centre]) - transform_points(truth, [centre])
        )
        assert 0.03 < distance < 0.08


def test_errors():
    cloud = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(ValueError, match="rigid"):
        refine_motion(cloud, cloud, 2 * np.eye(4), 1)
    with pytest.raises(ValueError, match="radius must be positive, got 0"):
        refine_motion(cloud, cloud, np.eye(4), 0)
