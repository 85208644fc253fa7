"""What a camera does to frames: each effect alone, and that all repeat by seed."""

import numpy as np
import pytest

from flowmatch.flow import effects
from flowmatch.flow.scene import Layer, Motion, Scene, shift


class Always:
    """A generator whose `random()` without arguments is a given number, so that effects happen."""

    def __init__(self, value, seed=0):
        self.value, self.rng = value, np.random.default_rng(seed)

    def random(self, *arguments, **options):
        return self.rng.random(*arguments, **options) if arguments else self.value

    def __getattr__(self, name):
        return getattr(self.rng, name)


@pytest.fixture
def frames(photo):
    return photo[:96, :128].astype(np.float32), photo[2:98, 3:131].astype(np.float32)


def test_degrade_repeats_by_seed(frames):
    runs = [effects.degrade(np.random.default_rng(3), *frames) for _ in range(2)]
    for one, two in zip(*runs, strict=True):
        assert one.dtype == np.uint8
        assert one.shape == (96, 128, 3)
        assert np.array_equal(one, two)


def test_nothing_happens_when_nothing_is_drawn(frames):
    assert all(a is b for a, b in zip(frames, effects._fog(Always(0.99), *frames), strict=True))
    assert all(a is b for a, b in zip(frames, effects._shade(Always(0.99), *frames), strict=True))
    assert all(a is b for a, b in zip(frames, effects._defocus(Always(0.99), *frames), strict=True))


def test_fog_pulls_every_pixel_towards_one_colour(frames):
    foggy, _ = effects._fog(Always(0.0), *frames)
    veil = foggy - frames[0]
    assert foggy.std() < frames[0].std()
    clear = np.abs(veil).sum(axis=2) < 1e-3
    assert clear.mean() < 0.5
    assert foggy.min() >= 0


def test_shade_changes_the_light_between_the_frames(frames):
    same = frames[0], frames[0]
    first, second = effects._shade(Always(0.0), *same)
    ratio = (second + 1e-3) / (first + 1e-3)
    assert 0.7 < ratio.min() < ratio.max() < 1.3
    assert ratio.std() > 0.005


def test_defocus_keeps_the_mean_and_loses_detail(frames):
    blurred, _ = effects._defocus(Always(0.0), *frames)
    assert blurred.mean() == pytest.approx(frames[0].mean(), rel=0.01)
    assert np.abs(np.diff(blurred, axis=1)).mean() < 0.9 * np.abs(np.diff(frames[0], axis=1)).mean()


def test_moving_things_blur_along_their_motion_and_still_ones_do_not(photo):
    """A white square that moves by 20 pixels to the right leaves a ramp, up and down stay sharp."""
    square = Layer(np.full((20, 20, 3), 255, np.uint8), shift(40, 40),
                   Motion(translation=(20, 0)), np.full((20, 20), 255, np.uint8))  # fmt: skip
    scene = Scene((100, 120), (Layer(np.zeros((4, 4, 3), np.uint8), np.eye(3)), square))
    views = scene.view(0), scene.view(1)
    first, second = effects.expose_moving(Always(0.0), scene, *views)
    across, down = first[50, :, 0], first[:, 50, 0]
    assert set(np.unique(down)) == {0, 255}
    assert len(np.unique(across)) > 3
    assert across.sum() == pytest.approx(20 * 255, rel=0.05)
    assert second[50, 70, 0] == 255  # the middle of where it is at time 1
    sharp = effects.expose_moving(Always(0.9), scene, *views)
    assert sharp[0] is views[0].image


def test_moving_blur_keeps_what_stands_still():
    """For every shutter: the middle of seven times was 1e-17 at some, and counted twice."""
    scene = Scene((2, 3), (Layer(np.full((4, 4, 3), 100, np.uint8), np.eye(3)),))
    view = scene.view(0)
    for seed in range(200):
        for frame in effects.expose_moving(Always(0.0, seed), scene, view, view):
            np.testing.assert_allclose(frame, 100, rtol=1e-6)


def test_clouds_are_smooth_and_fill_their_range():
    sky = effects.clouds(np.random.default_rng(0), 60, 80)
    assert sky.shape == (60, 80)
    assert sky.min() == 0
    assert sky.max() == pytest.approx(1)
    assert np.abs(np.diff(sky, axis=0)).max() < 0.2


def test_compression_changes_little(photo):
    image = np.ascontiguousarray(photo[:96, :128])
    assert np.abs(effects._compress(image, 90).astype(int) - image).mean() < 5


def test_degrade_keeps_what_is_seen(photo):
    image = np.asarray(photo)[:64, :64].astype(np.float32)
    one, two = effects.degrade(np.random.default_rng(1), image, image)
    assert one.dtype == np.uint8
    for other in (two, image):  # the same picture, in another tone and with noise
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.8
