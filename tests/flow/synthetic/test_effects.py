"""Photometric effects: each alone, and repeatable by seed."""

import numpy as np
import pytest

from flowmatch.flow.synthetic import effects
from flowmatch.flow.synthetic.scene import Layer, Motion, Scene, translate


class Always:
    """A generator whose `random()` without arguments returns a constant, so that effects happen."""

    def __init__(self, value, seed=0):
        self.value, self.rng = value, np.random.default_rng(seed)

    def random(self, *arguments, **options):
        return self.rng.random(*arguments, **options) if arguments else self.value

    def __getattr__(self, name):
        return getattr(self.rng, name)


@pytest.fixture
def frames(photo):
    return photo[:96, :128].astype(np.float32), photo[2:98, 3:131].astype(np.float32)


def test_apply_effects_repeats_by_seed(frames):
    sampled = (effects.sample_effects(np.random.default_rng(3), (96, 128)) for _ in range(2))
    runs = [effects.apply_effects(parameters, *frames) for parameters in sampled]
    for a, b in zip(*runs, strict=True):
        assert a.dtype == np.uint8
        assert a.shape == (96, 128, 3)
        assert np.array_equal(a, b)


def test_no_effects_change_nothing(frames, only):
    sampled = effects.sample_effects(Always(0.99), (96, 128))
    assert not any((sampled.shutter, sampled.fog, sampled.shade, sampled.defocus, sampled.quality))
    for before, after in zip(frames, effects.apply_effects(only(), *frames), strict=True):
        assert np.array_equal(before, after)


def test_all_effects_can_be_sampled():
    sampled = effects.sample_effects(Always(0.0), (96, 128))
    assert all((sampled.shutter, sampled.fog, sampled.shade, sampled.defocus, sampled.quality))


def test_fog_pulls_every_pixel_towards_one_colour(frames, only):
    fog = effects.sample_effects(Always(0.0), (96, 128)).fog
    foggy, _ = effects.apply_effects(only(fog=fog), *frames)
    nearer = np.abs(foggy - fog.colour) <= np.abs(frames[0] - fog.colour) + 1
    assert nearer.all()
    assert foggy.std() < 0.9 * frames[0].std()


def test_shade_changes_the_light_between_the_frames(frames, only):
    shade = effects.sample_effects(Always(0.0), (96, 128)).shade
    bright = np.full((96, 128, 3), 250, np.float32)
    first, second = effects.apply_effects(only(shade=shade), bright, bright)
    ratio = second / first
    assert 0.7 < ratio.min() < ratio.max() < 1.3
    assert ratio.std() > 0.005


def test_defocus_keeps_the_mean_and_loses_detail(frames, only):
    blurred, _ = effects.apply_effects(only(defocus=(1.0, 1.0)), *frames)
    assert blurred.mean() == pytest.approx(frames[0].mean(), rel=0.01)
    detail = np.abs(np.diff(blurred.astype(float), axis=1)).mean()
    assert detail < 0.9 * np.abs(np.diff(frames[0], axis=1)).mean()


def test_noise_can_be_left_to_a_seed(frames, only):
    """The frames have different seeds, and the numbers sampled before the noise are the same."""
    a, b = effects.apply_effects(only(sigma=5.0), frames[0], frames[0])
    assert (a.astype(float) - frames[0]).std() == pytest.approx(5, rel=0.1)
    assert np.corrcoef((a - frames[0]).ravel(), (b - frames[0]).ravel())[0, 1] < 0.05
    whole, seeded = (
        effects.sample_effects(np.random.default_rng(3), (96, 128), seeded).film
        for seeded in (False, True)
    )
    assert whole.gamma == seeded.gamma
    assert whole.exposures[0].contrast == seeded.exposures[0].contrast
    assert isinstance(seeded.exposures[1].grain, int)


def test_motion_blur_is_along_the_motion(photo):
    """A white square that moves by 20 pixels to the right has ramps at its sides only."""
    square = Layer(np.full((20, 20, 3), 255, np.uint8), translate(40, 40),
                   Motion(translation=(20, 0)), np.full((20, 20), 255, np.uint8))  # fmt: skip
    scene = Scene((100, 120), (Layer(np.zeros((4, 4, 3), np.uint8), np.eye(3)), square))
    views = scene.render(0), scene.render(1)
    first, second = effects.blur_motion(scene, 0.5, *views)
    across, down = first[50, :, 0], first[:, 50, 0]
    assert set(np.unique(down)) == {0, 255}
    assert len(np.unique(across)) > 3
    assert across.sum() == pytest.approx(20 * 255, rel=0.05)
    assert second[50, 70, 0] == 255  # the centre of the square at time 1
    sharp = effects.blur_motion(scene, None, *views)
    assert sharp[0] is views[0].image


def test_motion_blur_keeps_still_scenes():
    """For any shutter: the middle of the seven times may be 1e-17, and must not count twice."""
    scene = Scene((2, 3), (Layer(np.full((4, 4, 3), 100, np.uint8), np.eye(3)),))
    view = scene.render(0)
    for shutter in np.random.default_rng(0).uniform(0.15, 0.6, 200):
        for frame in effects.blur_motion(scene, shutter, view, view):
            np.testing.assert_allclose(frame, 100, rtol=1e-6)


def test_octaves_are_smooth_and_fill_their_range():
    noise = effects.sum_octaves(effects.sample_octaves(np.random.default_rng(0)), 60, 80)
    assert noise.shape == (60, 80)
    assert noise.min() == 0
    assert noise.max() == pytest.approx(1)
    assert np.abs(np.diff(noise, axis=0)).max() < 0.2


def test_compression_changes_little(photo):
    image = np.ascontiguousarray(photo[:96, :128])
    assert np.abs(effects.compress_jpeg(image, 90).astype(int) - image).mean() < 5


def test_effects_keep_the_content(photo):
    image = np.asarray(photo)[:64, :64].astype(np.float32)
    sampled = effects.sample_effects(np.random.default_rng(1), (64, 64))
    a, b = effects.apply_effects(sampled, image, image)
    assert a.dtype == np.uint8
    for frame in (b, image):  # the same image, with another tone and with noise
        assert np.corrcoef(a.ravel(), frame.ravel())[0, 1] > 0.8
