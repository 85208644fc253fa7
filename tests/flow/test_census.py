"""Soft census distance, against a plain loop."""

import math

import pytest
import torch

from flowmatch.flow.census import census_distance


def test_census_by_a_plain_loop():
    torch.manual_seed(0)
    first, second = torch.rand(2, 1, 3, 9, 8)
    distance = census_distance(first, second, radius=1)
    gray = [(255 * (0.299 * i[0, 0] + 0.587 * i[0, 1] + 0.114 * i[0, 2])) for i in (first, second)]
    for y, x in ((1, 1), (4, 3), (7, 6)):
        total = 0.0
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                signs = []
                for image in gray:
                    d = (image[y + dy, x + dx] - image[y, x]).item()
                    signs.append(d / math.sqrt(0.81 + d * d))
                s = (signs[0] - signs[1]) ** 2
                total += s / (0.1 + s)
        assert distance[0, y, x].item() == pytest.approx(total, rel=1e-4)
    assert (distance[0, 0] == 0).all()


def test_census_ignores_exposure():
    image = torch.rand(1, 3, 20, 20)
    assert (
        census_distance(image, image * 0.5 + 0.3).mean()
        < 0.3 * census_distance(image, torch.rand(1, 3, 20, 20)).mean()
    )
    assert census_distance(image, image + 0.2).max() < 1e-3
