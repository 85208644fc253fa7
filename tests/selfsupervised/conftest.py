"""A clip in which things move, and where they truly are."""

import numpy as np
import pytest

SIZE, SPEED = (96, 160), 3


@pytest.fixture(scope="session")
def moving():
    """Frames of two squares, one right, one left, on a still background; flow and places."""
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 90, (*SIZE, 3)).astype(np.uint8)
    colours = ((220, 40, 40), (40, 60, 230))

    def places(number):
        return [(10 + SPEED * number, 15), (125 - SPEED * number, 60)]

    def frame(number):
        picture = ground.copy()
        for (x, y), colour in zip(places(number), colours, strict=True):
            picture[y : y + 20, x : x + 14] = colour
        return picture

    frames = [(number, frame(number)) for number in range(30)]
    known = {picture.tobytes(): number for number, picture in frames}

    def flow(first, second):
        """The true flow, there or back."""
        one, two = known[first.tobytes()], known[second.tobytes()]
        found = np.zeros((*SIZE, 2), np.float32)
        for (x, y), (x2, y2) in zip(places(one), places(two), strict=True):
            found[y : y + 20, x : x + 14] = (x2 - x, y2 - y)
        return found

    return frames, flow, places
