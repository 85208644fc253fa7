"""A clip of moving objects with known flow."""

import numpy as np
import pytest

SIZE, SPEED = (96, 160), 3


@pytest.fixture(scope="session")
def moving():
    """Frames of two rectangles that move in opposite directions, their flow and their places."""
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
        """Return the true flow between two frames, forward or backward."""
        start, end = known[first.tobytes()], known[second.tobytes()]
        result = np.zeros((*SIZE, 2), np.float32)
        for (x, y), (x2, y2) in zip(places(start), places(end), strict=True):
            result[y : y + 20, x : x + 14] = (x2 - x, y2 - y)
        return result

    return frames, flow, places
