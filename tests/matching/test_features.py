"""Matches with a mirrored image, in pixels of the image as it was."""

import cv2
import numpy as np
import pytest

from flowmatch.matching.match import match_images
from flowmatch.matching.options import MatchOptions

TURNED = np.array([[0.9, -0.35, 90.0], [0.3, 0.95, -30.0], [1e-4, 5e-5, 1.0]])


def test_a_mirrored_view_is_matched(photo):
    H, W = photo.shape[:2]
    second = np.ascontiguousarray(cv2.warpPerspective(photo, TURNED, (W, H))[:, ::-1])
    options = MatchOptions(keypoints=500)
    assert not match_images(photo, second, model="rootsift", options=options).trusted
    matches = match_images(photo, second[:, ::-1], model="rootsift", options=options).unmirrored(W)
    assert matches.trusted and np.linalg.det(matches.matrix[:2, :2]) < 0
    a, b = matches.points(inliers=True)
    mapped = cv2.perspectiveTransform(a[None].astype(np.float64), TURNED)[0]
    mapped[:, 0] = W - 1 - mapped[:, 0]
    assert np.median(np.linalg.norm(mapped - b, axis=1)) < 1
    by_matrix = cv2.perspectiveTransform(a[None].astype(np.float64), matches.matrix)[0]
    assert np.linalg.norm(by_matrix - b, axis=1).max() <= 3
    angles = matches.keypoints1.angle[matches.matches[matches.inliers, 1]]
    upright = matches.keypoints0.angle[matches.matches[matches.inliers, 0]]
    turned = np.arctan2(0.3, 0.9)  # of the image's x axis, but for the perspective
    assert np.median(np.abs(np.angle(np.exp(1j * (angles - (np.pi - upright - turned)))))) < 0.2


def test_epipolar_lines_hold_in_the_mirrored_image(photo):
    matches = match_images(
        photo, photo[:, 20:], model="rootsift", options=MatchOptions(geometry="fundamental")
    )
    mirrored = matches.unmirrored(photo.shape[1] - 20)
    a, b = (np.column_stack([xy, np.ones(len(xy))]) for xy in mirrored.points(inliers=True))
    lines = a @ mirrored.matrix.T
    assert (np.abs((lines * b).sum(axis=1)) / np.linalg.norm(lines[:, :2], axis=1)).max() < 5


def test_no_camera_mirrors(photo):
    K = np.diag([500.0, 500.0, 1.0])
    options = MatchOptions(geometry="essential", intrinsics=(K, K), keypoints=50)
    with pytest.raises(ValueError, match="no motion of a camera mirrors a scene"):
        match_images(photo, photo, model="rootsift", options=options).unmirrored(300)
