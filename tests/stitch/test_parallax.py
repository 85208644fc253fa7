"""Whether photos were taken from one place, on a rendered world with things near and far."""

import numpy as np
import pytest

from flowmatch.stitch import StitchOptions, find_cameras

from .conftest import turn
from .world import World

SIZE, VIEW = (480, 360), 60.0


class Room:
    """A sphere of things at distance 1 before a world at distance 8."""

    def __init__(self):
        self.far, self.near = World(seed=1), World(count=2500, seed=2)

    def photo(self, rotation, place):
        shown = _from(self.far, rotation, place, 8.0)
        things = _from(self.near, rotation, place, 1.0)
        seen = np.abs(things.astype(int) - 128).max(axis=2, keepdims=True) > 20
        return np.where(seen, things, shown).astype(np.uint8)


def _from(world, rotation, place, radius):
    """Return a photo of the inside of a sphere, from a place in it."""

    class Moved(World):
        def __init__(self):
            self.picture = world.picture

        def directions(self, rays):
            along = (rays @ place)[..., None]
            square = (rays**2).sum(axis=-1, keepdims=True)
            root = np.sqrt(along**2 - square * (place @ place - radius**2))
            return place + (root - along) / square * rays

    return Moved().photo(rotation, VIEW, SIZE)


def notes_of(step):
    """Return the notes about four photos, between which the camera moves sideways by a step."""
    room = Room()
    photos = [room.photo(turn(16.0 * k), np.array([step * (k - 1.5), 0, 0])) for k in range(4)]
    (group,) = find_cameras(photos, options=StitchOptions(keypoints=2000)).groups
    assert len(group.photos) == 4
    return group.messages


@pytest.mark.parametrize("step", [0.0, 0.003])
def test_photos_of_one_place(step):
    assert notes_of(step) == ()


def test_photos_of_several_places():
    (note,) = notes_of(0.03)
    share, _, rest = note.partition("% of the matched points are more than ")
    assert 10 < int(share) < 50
    assert rest == (
        "1.25 % of a photo's diagonal apart: the photos were taken from different places, or "
        "things moved; expect ghosts"
    )
