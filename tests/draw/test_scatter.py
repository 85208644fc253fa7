"""Scatter plots: positions of dots, and the projection to two dimensions."""

import numpy as np
from scipy.spatial.distance import pdist

from flowmatch.draw import scatter
from flowmatch.draw.scatter import two_dimensions


def test_dots_lie_at_their_coordinates():
    x = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0]])
    picture = scatter(x, np.array([0, 1, 1]), ("a", "b"), side=200)
    coloured = (picture != 255).any(2)
    assert coloured[100 + 44, 12] and coloured[100 + 44, 188] and coloured[100 - 44, 12]
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 3
    assert scatter(x[:0], np.empty(0, np.int64), ()).min() == 255


def test_two_principal_components_keep_distances_in_a_plane():
    random = np.random.default_rng(0)
    line = random.normal(size=(20, 1)) @ random.normal(size=(1, 5))
    np.testing.assert_allclose(pdist(two_dimensions(line)), pdist(line), atol=1e-9)
    assert two_dimensions(np.ones((3, 1))).tolist() == [[1, 0]] * 3
