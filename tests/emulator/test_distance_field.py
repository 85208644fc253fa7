"""csrc/cuda/distance_field.cu against the distances of all voxels to all points."""

import numpy as np
import pytest

CASES = [  # points, centres, size, truncation
    (1, 1, 1, 1.0),
    (40, 2, 5, 3.0),
    (0, 1, 3, 2.0),
    (300, 1, 7, 2.5),
    (2000, 1, 8, 5.0),  # many rows of cells within the truncation, most of them too far
]
VOXEL, CELL = 0.01, 0.04
HUGE = [1 << 9, 1 << 9, 1 << 9]  # cells: too many for a table


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("counts", [[11, 11, 11], HUGE], ids=["table", "search"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_distance_field(emulated, case, dtype, counts):
    count, keypoints, size, truncation = case
    random = np.random.default_rng(0)
    points = random.uniform(0, 0.2, (count, 3)).astype(dtype)
    centres = random.uniform(0, 0.2, (keypoints, 3)).astype(dtype)
    frames = np.linalg.qr(random.standard_normal((keypoints, 3, 3)))[0].astype(dtype)
    origin = (-0.1, -0.1, -0.1)
    cells = ((points - origin) // CELL).astype(np.int64)
    keys = (cells[:, 2] * counts[1] + cells[:, 1]) * counts[0] + cells[:, 0]
    order = np.argsort(keys, kind="stable")
    points, keys = points[order], keys[order]

    steps = VOXEL * (np.arange(size) - (size - 1) / 2)
    z, y, x = np.meshgrid(steps, steps, steps, indexing="ij")
    local = np.stack([x, y, z], -1)
    reach = VOXEL * truncation
    expected = np.zeros((keypoints, size, size, size))
    for k in range(keypoints):
        voxels = local @ frames[k].astype(float) + centres[k].astype(float)
        distances = np.linalg.norm(voxels[..., None, :] - points.astype(float), axis=-1)
        nearest = distances.min(-1, initial=reach)
        expected[k] = 1 - nearest / reach
    for seed, guard in enumerate(["after", "before"]):
        emulated.set(seed=seed, guard=guard)
        out = np.zeros(expected.shape, dtype)
        emulated.distance_field(
            points, keys, centres, frames, out, (*origin, CELL), counts, VOXEL, truncation
        )
        np.testing.assert_allclose(out, expected, 0, 1e-5 if dtype == np.float32 else 1e-12)
