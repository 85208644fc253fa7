"""Agreement of surfaces after registration."""

import numpy as np
import pytest

from flowmatch.registration.agreement import agreement, inverse_normal_frequency


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
