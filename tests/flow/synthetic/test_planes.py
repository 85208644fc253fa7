"""Planes in space, against single points that are moved and projected."""

import cv2
import numpy as np
import pytest

from flowmatch.flow.synthetic.pairs import sample_box_scene
from flowmatch.flow.synthetic.planes import (
    Box,
    MovingCamera,
    PlaneMotion,
    box_layers,
    sample_box,
    sample_camera,
)
from flowmatch.flow.synthetic.scene import Scene, translate
from flowmatch.flow.synthetic.sources import Sources

CAMERA = MovingCamera(100.0, (80.0, 60.0), velocity=(0.1, -0.05, 0.3), rotation=(0.02, -0.03, 0.05))
BOX = Box(left=2.0, right=3.0, up=1.5, down=1.0, far=8.0)


def project(camera, point, time, velocity=(0, 0, 0)):
    """Project a point in space at `time`, after the motion of the point and of the camera."""
    moved = np.asarray(point) + time * np.asarray(velocity) - time * np.asarray(camera.velocity)
    x, y, z = cv2.Rodrigues(np.asarray(camera.rotation) * time)[0].T @ moved
    return np.array([camera.focal * x / z + camera.centre[0],
                     camera.focal * y / z + camera.centre[1]])  # fmt: skip


def apply(matrix, point):
    x, y, w = matrix @ [*point, 1]
    return np.array([x, y]) / w


@pytest.mark.parametrize("time", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("velocity", [(0, 0, 0), (0.2, 0.1, -0.4)], ids=["still", "moving"])
def test_points_of_a_plane_move_as_if_projected(time, velocity):
    normal, corner = np.array([0.3, -0.2, 1.0]), np.array([0.5, 0.4, 4.0])
    motion = PlaneMotion(CAMERA, tuple(normal), float(normal @ corner), velocity)
    along = np.cross(normal, [1.0, 2.0, 3.0]), np.cross(normal, [-1.0, 0.5, 0.2])
    for a, b in ((0, 0), (0.2, 0), (0, -0.3), (-0.4, 0.5)):
        point = corner + a * along[0] + b * along[1]
        start = project(CAMERA, point, 0.0)
        expected = project(CAMERA, point, time, velocity)
        np.testing.assert_allclose(apply(motion.at(time), start), expected, atol=1e-9)


def test_depth_of_a_box_is_where_the_ray_hits_it():
    points = [(80.0, 60.0), (80.0, 160.0), (-120.0, 60.0), (280.0, 60.0), (80.0, -90.0)]
    # Straight on: the far side. At a slope of 1 down: the floor at 1. Two to the left: 2 / 2, ...
    np.testing.assert_allclose(BOX.depth(CAMERA, points), [8, 1, 1, 1.5, 1])


def test_flow_of_a_box_is_that_of_its_points(photo):
    """The flow of every pixel, against its point in space, moved and projected."""
    layers = box_layers(BOX, CAMERA, photo, translate(-100, -100))
    assert len(layers) == 5
    scene = Scene((120, 160), tuple(layers))
    view = scene.render(0)
    flow, hidden = scene.flow(view, 0, 1)
    for y in range(3, 120, 13):
        for x in range(2, 160, 11):
            depth = float(BOX.depth(CAMERA, (x, y)))
            ray = np.array([(x - 80) / 100, (y - 60) / 100, 1.0])
            expected = project(CAMERA, depth * ray, 1.0) - [x, y]
            np.testing.assert_allclose(flow[y, x], expected, atol=0.05, err_msg=f"{x}, {y}")
    middle = hidden[20:100, 20:140]  # seams between the sides hide nothing
    assert middle.mean() < 0.01


def test_sampled_cameras_stay_in_the_box_and_move_by_the_factor():
    lengths = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        box = sample_box(rng)
        camera = sample_camera(rng, (192, 256), box, factor=1.0)
        x, y, z = camera.velocity
        assert abs(x) < min(box.left, box.right)
        assert abs(y) < min(box.up, box.down)
        assert abs(z) < box.far
        still = MovingCamera(camera.focal, camera.centre, camera.velocity)  # without rotation
        grid = np.stack(np.meshgrid(np.linspace(0, 256, 9), np.linspace(0, 192, 7)), -1)
        for point in grid.reshape(-1, 2)[::9]:
            depth = float(box.depth(camera, point))
            ray = np.array([*((point - camera.centre) / camera.focal), 1.0])
            if depth > 2 * abs(z):
                lengths.append(np.linalg.norm(project(still, depth * ray, 1.0) - point))
    assert 2 < np.median(lengths) < 10


def test_box_scenes_repeat_by_seed():
    scenes = [sample_box_scene(np.random.default_rng(5), Sources(), (64, 96)) for _ in range(2)]
    views = [scene.render(1.0).image for scene in scenes]
    assert np.array_equal(*views)
    assert np.ptp(views[0]) > 0
