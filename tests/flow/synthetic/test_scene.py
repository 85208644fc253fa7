"""Flow of scenes: against a computation for each object, and by warping rendered frames."""

import numpy as np
import pytest

from flowmatch.flow.synthetic.scene import Deformation, Layer, Motion, Scene, translate

SQUARE = np.full((20, 20, 3), 250, np.uint8)
OPAQUE = np.full((20, 20), 255, np.uint8)


def moving_square(photo, motion, camera=None):
    background = Layer(photo, np.eye(3))
    square = Layer(SQUARE, translate(30, 40), motion, OPAQUE)
    return Scene((120, 160), (background, square), camera or Motion())


@pytest.mark.parametrize("time", [0.0, 1.0, 2.5])
def test_motion_is_a_similarity_about_its_centre(time):
    motion = Motion((10, 20), (3, -1), rotation=0.2, zoom=0.1)
    moved = motion.at(time) @ np.array([10, 20, 1])
    np.testing.assert_allclose(moved, [10 + 3 * time, 20 - time, 1])
    side = motion.at(time) @ np.array([11, 20, 1]) - moved
    scale, angle = np.exp(0.1 * time), 0.2 * time
    np.testing.assert_allclose(side[:2], [scale * np.cos(angle), scale * np.sin(angle)])


def test_flow_of_a_translated_square(photo):
    """Worked by hand: the square occupies rows 40..59, columns 30..49 and moves by (7, -3)."""
    scene = moving_square(photo, Motion(translation=(7, -3)))
    view = scene.render(0)
    flow, hidden = scene.flow(view, 0, 1)
    inside = np.zeros((120, 160), bool)
    inside[40:60, 30:50] = True
    assert (view.layer == inside).all()
    assert (flow[inside] == [7, -3]).all()
    assert (flow[~inside] == 0).all()
    covered = np.zeros((120, 160), bool)
    covered[37:57, 37:57] = True  # where the square is at time 1, except where it was at time 0
    assert (hidden == (covered & ~inside)).all()


def test_backward_flow_is_the_inverse(photo):
    scene = moving_square(photo, Motion(translation=(7, -3)))
    flow, hidden = scene.flow(scene.render(1), 1, 0)
    assert (flow[37:57, 37:57] == [-7, 3]).all()
    uncovered = np.zeros((120, 160), bool)
    uncovered[40:60, 30:50] = True
    uncovered[37:57, 37:57] = False  # seen at time 1 as background, hidden by the square at time 0
    assert (hidden == uncovered).all()


def test_objects_inherit_the_camera(photo):
    camera = Motion((80, 60), (4, 2), rotation=0.05, zoom=0.03)
    scene = moving_square(photo, Motion((40, 50), (1, -2), rotation=-0.1), camera)
    view = scene.render(0)
    flow, _ = scene.flow(view, 0, 1)

    def step(x, y, motion):  # the same motion, by complex numbers
        spin = np.exp(motion.zoom + 1j * motion.rotation)
        centre = complex(*motion.centre)
        return spin * (complex(x, y) - centre) + centre + complex(*motion.translation)

    for y, x in ((5, 5), (110, 150), (45, 35), (58, 48)):
        end = step(x, y, camera)
        if view.layer[y, x] == 1:
            end = step(end.real, end.imag, scene.layers[1].motion)
        np.testing.assert_allclose(flow[y, x], [end.real - x, end.imag - y], atol=1e-4)


@pytest.mark.parametrize(
    "camera",
    [
        Motion((80, 60), (3.4, -2.6)),
        Motion((80, 60), (1, 1), rotation=0.08, zoom=0.06),
        Motion((80, 60), (2, 0), perspective=(3e-4, -2e-4)),
    ],
    ids=["shift", "turn and zoom", "perspective"],
)
def test_warping_the_second_frame_gives_the_first(photo, camera, fetch_back):
    smooth = np.asarray(photo)[:256, :256].astype(np.float32)
    for axis in (0, 1):  # interpolation is accurate only for smooth images
        smooth = sum(np.roll(smooth, k, axis) for k in range(-4, 5)) / 9
    place = translate(-48, -68)
    scene = Scene((120, 160), (Layer(smooth.astype(np.uint8), place),), camera)
    first, second = scene.render(0), scene.render(1)
    flow, hidden = scene.flow(first, 0, 1, second)
    back = fetch_back(second.image, flow)
    difference = np.abs(back - first.image)[~hidden]
    assert (~hidden).mean() > 0.7
    assert difference.mean() < 1.0
    untouched = np.abs(second.image - first.image)[~hidden]
    assert difference.mean() < 0.25 * untouched.mean()


def test_points_outside_the_frame_are_occluded(photo):
    scene = Scene((50, 60), (Layer(photo, np.eye(3)),), Motion(translation=(10, 0)))
    _, hidden = scene.flow(scene.render(0), 0, 1)
    assert hidden[:, 50:].all()
    assert not hidden[:, :50].any()


def test_points_behind_the_camera_are_occluded(photo):
    camera = Motion((25, 30), perspective=(0.1, 0.0))  # the left moves behind the camera
    scene = Scene((50, 60), (Layer(photo, np.eye(3)),), camera)
    flow, hidden = scene.flow(scene.render(0), 0, 1)
    assert np.isfinite(flow).all()
    assert hidden[:, :15].all()


def test_a_layer_outside_changes_nothing(photo):
    scene = moving_square(photo, Motion())
    far = Layer(SQUARE, translate(500, 500), Motion(), OPAQUE)
    larger = Scene(scene.size, (*scene.layers, far))
    assert (larger.render(0).image == scene.render(0).image).all()


DEFORMATION = Deformation(
    centres=np.array([[80.0, 60.0], [50.0, 30.0]]),
    displacements=np.array([[6.0, -4.0], [-3.0, 2.0]]),
    radii=np.array([30.0, 18.0]),
)


def test_deformation_by_hand():
    """The displacement is full at the centre, and exp(-1/2) of it one radius away."""
    deformation = Deformation(np.array([[10.0, 20.0]]), np.array([[4.0, -2.0]]), np.array([5.0]))
    result = deformation.at(np.array([[10.0, 15.0], [20.0, 20.0]]), 0.5)
    np.testing.assert_allclose(result[:, 0], [2, -1])
    np.testing.assert_allclose(result[:, 1], np.exp(-0.5) * np.array([2, -1]))


def test_deformation_satisfies_its_equation():
    points = np.random.default_rng(0).uniform(0, 160, (2, 50))
    ends = DEFORMATION.apply(points, 1.0)
    np.testing.assert_allclose(ends, points + DEFORMATION.at(ends, 1.0), atol=1e-6)
    assert np.abs(ends - points).max() > 1


def test_flow_of_a_deformed_layer_explains_the_second_frame(photo, fetch_back):
    smooth = np.asarray(photo)[:256, :256].astype(np.float32)
    for axis in (0, 1):
        smooth = sum(np.roll(smooth, k, axis) for k in range(-4, 5)) / 9
    background = Layer(smooth.astype(np.uint8), translate(-48, -68), deformation=DEFORMATION)
    scene = Scene((120, 160), (background,), Motion((80, 60), (2, 1), rotation=0.03))
    first, second = scene.render(0), scene.render(1)
    flow, hidden = scene.flow(first, 0, 1, second)
    rigid, _ = Scene(scene.size, (Layer(background.texture, background.place),),
                     scene.camera).flow(first, 0, 1)  # fmt: skip
    assert np.abs(flow - rigid).max() > 4
    difference = np.abs(fetch_back(second.image, flow) - first.image)[~hidden].mean()
    assert difference < 0.3 * np.abs(fetch_back(second.image, rigid) - first.image)[~hidden].mean()


def test_backward_flow_of_a_deformed_layer_is_the_inverse(photo):
    scene = Scene((120, 160), (Layer(photo, translate(-20, -20), deformation=DEFORMATION),))
    forward, _ = scene.flow(scene.render(0), 0, 1)
    backward, _ = scene.flow(scene.render(1), 1, 0)
    x, y = 80, 60
    end = np.rint([x + forward[y, x, 0], y + forward[y, x, 1]]).astype(int)
    np.testing.assert_allclose(forward[y, x], -backward[end[1], end[0]], atol=0.3)
