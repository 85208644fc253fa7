"""Pictures of flow: known colours, and errors."""

import numpy as np
import pytest

from flowmatch.draw import draw_arrows, error_legend, error_map, flow_legend, flow_to_image

# Worked by hand from the table of Baker et al.: 15 steps red to yellow, 6 to green, 4 to cyan,
# 11 to blue, 13 to magenta, 6 to red; the angle atan2(-v, -u) runs over colours 0 to 54.
KNOWN = {
    "right is red": ((1, 0), (255, 0, 0)),
    "right, minus zero": ((1, -0.0), (255, 0, 0)),
    "down: colour 13.5": ((0, 1), (255, 229, 0)),
    "left: colour 27": ((-1, 0), (0, 209, 255)),
    "up: colour 40.5": ((0, -1), (88, 0, 255)),
    "half right": ((0.5, 0), (255, 127, 127)),
    "rest is white": ((0, 0), (255, 255, 255)),
    "beyond is darker": ((2, 0), (191, 0, 0)),
    "unknown is black": ((np.nan, 0), (0, 0, 0)),
    "infinite is unknown": ((0, np.inf), (0, 0, 0)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_colours(name):
    vector, colour = KNOWN[name]
    picture = flow_to_image(np.float32([[vector]]), max_flow=1)
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[list(colour)]]


def colour_of_the_paper(u, v):
    """Compute one colour as colorcode.cpp does, number by number."""
    wheel = []
    for steps, colour in (
        (15, lambda s: (255, s, 0)),
        (6, lambda s: (255 - s, 255, 0)),
        (4, lambda s: (0, 255, s)),
        (11, lambda s: (0, 255 - s, 255)),
        (13, lambda s: (s, 0, 255)),
        (6, lambda s: (255, 0, 255 - s)),
    ):
        wheel += [colour(255 * k // steps) for k in range(steps)]
    radius, position = np.hypot(u, v), (np.arctan2(-v, -u) / np.pi + 1) / 2 * 54
    k = int(position)
    share = position - k
    mixed = [
        (1 - share) * a / 255 + share * b / 255
        for a, b in zip(wheel[k], wheel[(k + 1) % 55], strict=True)
    ]
    return [int(255 * (1 - radius * (1 - c) if radius <= 1 else 0.75 * c)) for c in mixed]


def test_equals_the_paper_everywhere():
    flow = np.random.default_rng(0).normal(0, 0.7, (20, 20, 2))
    picture = flow_to_image(flow, max_flow=1).astype(int)
    expected = [[colour_of_the_paper(*vector) for vector in row] for row in flow]
    # Both cut to whole numbers, so float32 and float64 may differ by one.
    difference = np.abs(picture - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


def test_scale_is_the_largest_flow_or_fixed():
    first, second = np.zeros((1, 2, 2)), np.zeros((1, 2, 2))
    first[0, 0], second[0] = (2, 0), [(2, 0), (8, 0)]
    assert flow_to_image(first)[0, 0].tolist() == [255, 0, 0]
    assert flow_to_image(second)[0, 0].tolist() == [255, 191, 191]
    fixed = [flow_to_image(flow, max_flow=4)[0, 0].tolist() for flow in (first, second)]
    assert fixed == [[255, 127, 127]] * 2
    assert flow_to_image(np.zeros((2, 2, 2))).min() == 255
    assert flow_to_image(np.full((2, 2, 2), np.nan)).max() == 0


def test_legend_shows_the_colours_of_the_flow():
    legend = flow_legend(200, max_flow=8)
    assert legend.shape == (200, 200, 3)
    red = np.abs(legend.astype(int) - (255, 0, 0)).max(axis=2)
    y, x = np.unravel_index(red.argmin(), red.shape)
    assert x > 170  # rightward is at the right
    assert (legend[0] == 255).all()
    text = legend[-14:, :95].min()
    assert text < 80  # something is written at the lower left


def test_arrows():
    image = np.full((64, 64), 100, np.uint8)
    flow = np.zeros((64, 64, 2), np.float32)
    flow[..., 0] = 10
    flow[32:] = np.nan
    picture = draw_arrows(image, flow, step=16, scale=1)
    assert picture.shape == (64, 64, 3)
    # From (8, 8) ten to the right: white along it, dark around, nothing where unknown.
    assert picture[8, 9:17].min() > 200
    assert picture[5:12, 8:18].min() < 60
    assert (picture[34:] == 100).all()
    assert (image == 100).all()
    rest = draw_arrows(image, np.zeros((64, 64, 2)), step=16)
    assert rest[8, 8].min() > 200
    assert (draw_arrows(image, np.full((64, 64, 2), np.nan)) == 100).all()
    draw_arrows(image, np.full((64, 64, 2), 1e8), scale=5)


def test_error_map():
    truth = np.zeros((1, 4, 2))
    estimate = np.array([[(0, 0), (3, 4), (30, 40), (np.nan, 0)]])
    best, worst = [135, 8, 13][::-1], [240, 249, 33]
    assert error_map(estimate, truth, max_error=5)[0].tolist() == [best, worst, worst, [0, 0, 0]]
    assert error_map(truth, estimate, max_error=5)[0, 3].tolist() == [0, 0, 0]
    assert error_map(truth, truth)[0, 0].tolist() == best
    assert error_map(truth, np.full((1, 4, 2), np.nan)).max() == 0
    errors = np.zeros((10, 100, 2))
    errors[..., 0] = np.linspace(0, 1, 100)
    errors[0, 0] = 1e6  # one wild pixel does not hide the others
    gray = error_map(errors, np.zeros_like(errors))[5].astype(int).sum(axis=1)
    assert gray[-1] - gray[0] > 200
    assert error_legend(300, 2.5).shape[1] == 300


FLOW, IMAGE = np.zeros((4, 4, 2)), np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flow_to_image(np.zeros((4, 4, 3))), r"flow must be \[H, W, 2\], got \[4, 4, 3\]"),
        (lambda: flow_to_image(FLOW, max_flow=0), "max_flow must be a positive"),
        (lambda: flow_to_image(FLOW, max_flow=np.nan), "max_flow must be a positive"),
        (lambda: flow_legend(20, 1), "at least 64"),
        (lambda: flow_legend(100, -1), "max_flow must be a positive"),
        (lambda: error_legend(20, 1), "at least 96"),
        (lambda: draw_arrows(IMAGE / 255, FLOW), "image must be uint8"),
        (lambda: draw_arrows(IMAGE, FLOW[:3]), r"same size, got \[4, 4\] and \[3, 4\]"),
        (lambda: draw_arrows(IMAGE, FLOW, step=0), "must be positive"),
        (lambda: draw_arrows(IMAGE, FLOW, scale=0), "must be positive"),
        (lambda: error_map(FLOW, FLOW[:2]), r"got \[4, 4, 2\] and \[2, 4, 2\]"),
        (lambda: error_map(FLOW, FLOW, max_error=-1), "max_error must be a positive"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
