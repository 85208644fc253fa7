"""Alignment of images: pixels, sizes, baselines, and the evaluation of methods."""

import numpy as np
import pytest
import torch

from flowmatch._opencv import cv2
from flowmatch.align import AlignNet, align_images
from flowmatch.align.estimate import round_trip_error
from flowmatch.align.evaluate import evaluate
from flowmatch.align.synthetic import Ranges, SyntheticPairs
from flowmatch.align.transforms import AFFINE, identity, invert_affine

TINY = {"size": 96, "width": 4, "channels": (8, 8)}


def test_identity_keeps_pixels_and_scales_sizes(photo):
    same = align_images(photo, photo, model="identity")
    np.testing.assert_array_equal(same.warp(photo), photo)
    half = align_images(photo[::2, ::2], photo, model="identity")
    h, w = half.first_size
    corners = half.points([(-0.5, -0.5), (w - 0.5, h - 0.5)])
    np.testing.assert_allclose(
        corners, [(-0.5, -0.5), (photo.shape[1] - 0.5, photo.shape[0] - 0.5)]
    )
    assert half.warp(photo).shape == (h, w, 3)


def test_sift_finds_a_known_affine_transform(photo):
    """The second image is larger and shows the first one rotated and reduced."""
    matrix = np.array([[0.9, -0.2, 60.0], [0.25, 0.8, 40.0]])
    second = cv2.warpAffine(photo, matrix, (520, 400))
    alignment = align_images(photo, second, model="sift-affine")
    assert alignment.found
    xy = np.array([(20.0, 30.0), (400.0, 50.0), (200.0, 280.0)])
    np.testing.assert_allclose(alignment.points(xy), xy @ matrix[:, :2].T + matrix[:, 2], atol=0.7)
    warped = alignment.warp(second)
    assert warped.shape == photo.shape
    assert np.abs(warped[20:-20, 20:-20].astype(float) - photo[20:-20, 20:-20]).mean() < 6


def test_sift_reports_that_it_found_nothing(photo):
    flat = np.full((60, 80), 128, np.uint8)
    alignment = align_images(flat, photo, model="sift-affine")
    assert not alignment.found
    np.testing.assert_allclose(alignment.points([(39.5, 29.5)]), [(225, 149.5)])


def test_a_network_on_gray_and_colour(photo):
    network = AlignNet(**TINY)
    alignment = align_images(photo[..., 0], photo[:200], model=network)
    assert (alignment.method, alignment.found) == ("network", True)
    assert [theta.shape for theta in alignment.stages] == [(1, 6), (1, 18)]
    assert not any(theta.is_inference() for theta in alignment.stages)
    assert not network.training
    # Points and pixels agree: the warped centre is the pixel at the transformed centre.
    (x, y) = np.rint(alignment.points([(225, 149)])[0]).astype(int)
    near = photo[:200][y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).astype(int)
    centre = alignment.warp(photo[:200])[149, 225].astype(int)
    assert np.all(near.min(0) - 2 <= centre)
    assert np.all(centre <= near.max(0) + 2)


def test_errors(photo):
    with pytest.raises(ValueError, match="no weights named 'orb' ship"):
        align_images(photo, photo, model="orb")
    with pytest.raises(ValueError, match="second must be uint8"):
        align_images(photo, photo / 255, model="identity")
    alignment = align_images(photo, photo, model="identity")
    with pytest.raises(ValueError, match=r"points must be \[N, 2\]"):
        alignment.points([1, 2])
    with pytest.raises(ValueError, match="expected .* pixels"):
        alignment.warp(photo[:-1])


class Oracle(torch.nn.Module):
    """A network that returns the true transforms of samples in their order, and their inverses."""

    def __init__(self, samples):
        super().__init__()
        self.results = self.truths(samples)

    def truths(self, samples):
        for k in range(len(samples)):
            affine = torch.from_numpy(samples[k].affine)[None]
            yield affine, torch.from_numpy(samples[k].thin_plate)[None]
            yield (invert_affine(affine),)

    def forward(self, first, second):
        return next(self.results)


def test_evaluation(photo):
    samples = SyntheticPairs([photo], 96, Ranges(0, 0, (1, 1), 0.25), thin_plate=0.0, length=4)
    steps = []
    scores = evaluate(
        {"identity": "identity", "oracle": Oracle(samples)},
        samples,
        4,
        lambda *step: steps.append(step),
    )
    assert steps == [("evaluate", done, 4) for done in (1, 2, 3, 4)]
    assert scores["oracle"][:4] == (1, 1, 0, 0)
    shifts = np.array([np.hypot(*samples[k].affine[[2, 5]]) for k in range(4)])
    assert scores["identity"].distance == pytest.approx(shifts.mean(), rel=1e-4)
    assert scores["identity"].median == pytest.approx(np.median(shifts), rel=1e-4)
    # All points of a pair move equally; a tenth of the side is 0.2 half images.
    assert scores["identity"].pck_scnet == np.mean(shifts <= 0.2)
    with pytest.raises(ValueError, match="at least one pair"):
        evaluate({}, samples, 0)


def test_round_trip_error():
    right, left = identity(AFFINE), identity(AFFINE)
    right[:, 2], left[:, 2] = 0.5, -0.3
    assert round_trip_error([right], [left]) == pytest.approx(0.2, abs=1e-6)
    assert round_trip_error([left], [right]) == pytest.approx(0.2, abs=1e-6)
    outside = identity(AFFINE)
    outside[:, 2] = 3.0
    assert round_trip_error([outside], [identity(AFFINE)]) == float("inf")


def test_contradicting_transforms_are_rejected(photo):
    class ShiftRight(torch.nn.Module):
        """A network that returns the same shift in both directions."""

        def __init__(self, shift):
            super().__init__()
            self.shift = torch.nn.Parameter(torch.tensor([[1.0, 0, shift, 0, 1, 0]]))

        def forward(self, first, second):
            return (self.shift,)

    small = align_images(photo, photo, model=ShiftRight(0.04))
    assert small.found and small.points([(0, 0)])[0, 0] == pytest.approx(0.02 * 451, abs=0.1)
    large = align_images(photo, photo, model=ShiftRight(0.2))
    assert not large.found
    np.testing.assert_allclose(large.points([(3, 5)]), [[3, 5]])


def test_sift_affine_is_not_shifted(photo):
    """A picture turned by 180 degrees is aligned to a twentieth of a pixel."""
    turned = np.ascontiguousarray(photo[::-1, ::-1])
    alignment = align_images(photo, turned, model="sift-affine")
    corner = (photo.shape[1] - 1, photo.shape[0] - 1)
    np.testing.assert_allclose(alignment.points([(0, 0), corner]), [corner, (0, 0)], atol=0.05)
