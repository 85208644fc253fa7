"""The database for COLMAP: its rows, frames of pixels, and a reconstruction with known cameras."""

import sqlite3

import numpy as np
import PIL.Image
import pytest

from flowmatch.cli import main
from flowmatch.io import write_image
from flowmatch.matching.colmap import write_colmap_database
from flowmatch.matching.files import read_matches, write_matches
from flowmatch.matching.options import MatchOptions
from flowmatch.matching.pair_list import Pair, match_pairs
from tests.io.test_full_disk import limit

from .room import CAMERA, CENTRES, ROTATIONS, SIZE, render

ALL = [Pair("a.png", "b.png"), Pair("c.png", "a.png"), Pair("b.png", "a.png")]


@pytest.fixture
def images(tmp_path, photo):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, (y, x) in {"a": (0, 0), "b": (10, 20), "c": (30, 5)}.items():
        crop = np.ascontiguousarray(photo[y : y + 200, x : x + 300])
        write_image(folder / f"{name}.png", crop)
    return folder


def matched(images, output, pairs=ALL, **options):
    settings = MatchOptions(keypoints=200, **options)
    match_pairs(pairs, images, output, model="rootsift", options=settings)
    return output


def table(path, query):
    with sqlite3.connect(path) as connection:
        rows = connection.execute(query).fetchall()
    connection.close()
    return rows


def array(blob, kind, columns):
    return np.frombuffer(blob, kind).reshape(-1, columns)


def test_a_full_disk(images, tmp_path):
    out = matched(images, tmp_path / "out")
    with pytest.raises(OSError, match=r"database\.db cannot be written"), limit(30_000):
        write_colmap_database(tmp_path / "database.db", out, ALL, images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]


def test_rows(images, tmp_path):
    out = matched(images, tmp_path / "out")
    path = write_colmap_database(tmp_path / "database.db", out, ALL, images)
    assert table(path, "SELECT * FROM images") == [
        (1, "a.png", 1),
        (2, "b.png", 2),
        (3, "c.png", 3),
    ]
    cameras = table(path, "SELECT model, width, height, params, prior_focal_length FROM cameras")
    assert len(cameras) == 3
    assert cameras[0][:3] == (2, 300, 200) and cameras[0][4] == 0
    np.testing.assert_allclose(np.frombuffer(cameras[0][3]), [360, 150, 100, 0])
    result = read_matches(out / ALL[1].file())
    (rows, columns, data), *_ = table(path, "SELECT rows, cols, data FROM keypoints")
    points = result.keypoints1
    expected = np.column_stack([points.xy + 0.5, points.scale])
    assert (rows, columns) == (200, 4)
    np.testing.assert_array_equal(array(data, "<f4", 4)[:, :3], expected)
    turns = (array(data, "<f4", 4)[:, 3] - points.angle) / (2 * np.pi)
    np.testing.assert_allclose(turns, turns.round(), atol=1e-6)
    # Pairs with a smaller number first; b with a is there already.
    numbers = [1 * (2**31 - 1) + 2, 1 * (2**31 - 1) + 3]
    stored = dict(table(path, "SELECT pair_id, data FROM matches"))
    assert sorted(stored) == numbers
    np.testing.assert_array_equal(array(stored[numbers[1]], "<u4", 2), result.matches[:, ::-1])
    inliers = dict(table(path, "SELECT pair_id, data FROM two_view_geometries"))
    np.testing.assert_array_equal(
        array(inliers[numbers[1]], "<u4", 2), result.matches[result.inliers][:, ::-1]
    )
    assert table(path, "PRAGMA integrity_check") == [("ok",)]
    # It replaces an earlier file, and leaves no other.
    write_colmap_database(path, out, ALL[:1], images)
    assert table(path, "SELECT count(*) FROM images") == [(2,)]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["database.db", "images", "out"]


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("geometry", ["fundamental", "homography"])
def test_models_are_of_stored_pixels(tmp_path, photo, orientation, geometry):
    """Positions and model of both images agree in the frame of the pixels that the files store."""
    exif = PIL.Image.Exif()
    exif[0x112] = orientation
    for name, x in (("a.png", 0), ("b.png", 20)):
        PIL.Image.fromarray(photo[:200, x : x + 300]).save(tmp_path / name, exif=exif)
    # The second picture of the list has the smaller number.
    pairs = [Pair("a.png", "a.png"), Pair("b.png", "a.png")]
    out = matched(tmp_path, tmp_path / "out", pairs, geometry=geometry)
    camera = (310.0, 320.0, 140.0, 90.0)
    path = write_colmap_database(tmp_path / "db.db", out, pairs, tmp_path, camera=camera)
    points = {
        k: array(d, "<f4", 4)[:, :2] for k, d in table(path, "SELECT image_id, data FROM keypoints")
    }
    ((data, config, F, H),) = table(path, "SELECT data, config, F, H FROM two_view_geometries")
    index = array(data, "<u4", 2)
    a, b = (np.c_[points[k + 1][index[:, k]], np.ones(len(index))] for k in (0, 1))
    assert len(index) > 50
    if geometry == "homography":
        assert config == 6
        mapped = a @ array(H, "<f8", 3).T
        error = np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - b[:, :2], axis=1)
    else:
        assert config == 3
        lines = a @ array(F, "<f8", 3).T
        error = abs((lines * b).sum(axis=1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert error.max() < 6 and np.median(error) < 0.5
    # The shift of 20 pixels is along a side of the stored picture; the camera turns with it.
    ((width, height, params, prior),) = table(
        path, "SELECT width, height, params, prior_focal_length FROM cameras"
    )
    shift = np.median(a - b, axis=0)[:2]
    np.testing.assert_allclose(np.abs(shift), [20, 0], atol=0.3)
    assert (width, height, prior) == (300, 200, 1)
    fx, fy, cx, cy = np.frombuffer(params)
    turned = orientation > 4
    assert (fx, fy) == ((320, 310) if turned else (310, 320))
    expected = {1: (140.5, 90.5), 3: (159.5, 109.5), 6: (90.5, 59.5), 7: (209.5, 59.5)}
    if not turned:
        np.testing.assert_allclose((cx, cy), expected[orientation])
    else:  # (140, 90) of the picture as it is shown, 200 pixels wide
        assert 0 < cx < 300 and 0 < cy < 200


def test_chance_matches_have_no_geometry(images, tmp_path, photo):
    out = matched(images, tmp_path / "out", ALL[:1])
    result = read_matches(out / ALL[0].file())
    write_matches(out / ALL[0].file(), replace_inliers(result, 5))
    path = write_colmap_database(tmp_path / "db.db", out, ALL[:1], images)
    assert table(path, "SELECT rows FROM matches") == [(len(result.matches),)]
    assert table(path, "SELECT * FROM two_view_geometries") == []


def replace_inliers(result, count):
    return result._replace(inliers=np.arange(len(result.matches)) < count)


def test_keypoints_that_differ_between_pairs_are_refused(images, tmp_path):
    out = matched(images, tmp_path / "out")
    result = read_matches(out / ALL[1].file())
    moved = result.keypoints1._replace(xy=result.keypoints1.xy + 1)
    write_matches(out / ALL[1].file(), result._replace(keypoints1=moved))
    with pytest.raises(ValueError, match=r"those of a\.png are not: matcher loftr finds others"):
        write_colmap_database(tmp_path / "db.db", out, ALL, images)
    assert not (tmp_path / "db.db").exists()
    with pytest.raises(ValueError, match="relative to the folder of the images"):
        write_colmap_database(tmp_path / "db.db", out, [Pair("../a.png", "b.png")], images)


# ---- COLMAP itself -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pycolmap():
    return pytest.importorskip("pycolmap", reason="pycolmap is not installed")


@pytest.fixture(scope="module")
def reconstructed(tmp_path_factory):
    """Pictures of a room, matched by the command; the folder of the database."""
    folder = tmp_path_factory.mktemp("room")
    (folder / "images").mkdir()
    for k, (centre, rotation) in enumerate(zip(CENTRES, ROTATIONS, strict=True)):
        write_image(folder / "images" / f"{k}.png", render(centre, rotation))
    words = [str(folder / "images"), "--all", "-o", str(folder / "out"), "--model", "rootsift"]
    camera = ["--colmap", "--camera", ",".join(map(str, CAMERA)), "--keypoints", "1500"]
    assert main(["match", *words, *camera, "--threshold", "1.5"]) == 0
    return folder


def test_colmap_opens_the_database(pycolmap, reconstructed):
    database = pycolmap.Database.open(str(reconstructed / "out" / "colmap" / "database.db"))
    images = {image.name: image for image in database.read_all_images()}
    assert sorted(images) == [f"{k}.png" for k in range(5)]
    (camera,) = database.read_all_cameras()
    assert (camera.width, camera.height) == SIZE and camera.has_prior_focal_length
    np.testing.assert_allclose(camera.params, np.add(CAMERA, [0, 0, 0.5, 0.5]))
    first, second = images["0.png"].image_id, images["1.png"].image_id
    result = read_matches(reconstructed / "out" / Pair("0.png", "1.png").file())
    np.testing.assert_array_equal(database.read_matches(first, second), result.matches)
    geometry = database.read_two_view_geometry(first, second)
    np.testing.assert_array_equal(geometry.inlier_matches, result.matches[result.inliers])
    assert geometry.F is not None and geometry.E is geometry.H is geometry.cam2_from_cam1 is None
    assert database.num_keypoints_for_image(first) == len(result.keypoints0.xy)
    assert database.num_verified_image_pairs() == 10
    database.close()


def test_colmap_reconstructs_the_room(pycolmap, reconstructed):
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = 1
    options.ba_refine_focal_length = options.ba_refine_extra_params = False
    options.extract_colors = False
    (reconstructed / "sparse").mkdir()
    models = pycolmap.incremental_mapping(
        str(reconstructed / "out" / "colmap" / "database.db"),
        str(reconstructed / "images"),
        str(reconstructed / "sparse"),
        options=options,
    )
    (model,) = models.values()
    assert model.num_reg_images() == 5 and model.num_points3D() > 300
    assert model.compute_mean_reprojection_error() < 0.7
    poses = {image.name: image.cam_from_world().matrix() for image in model.images.values()}
    matrices = [poses[f"{k}.png"] for k in range(5)]
    rotations = [m[:, :3] for m in matrices]
    centres = [-m[:, :3].T @ m[:, 3] for m in matrices]
    compared = []
    for R, c in ((rotations, centres), (ROTATIONS, CENTRES)):
        # In the frame of the first camera, in units of the distance to the last one.
        scale = np.linalg.norm(c[4] - c[0])
        compared.append(([r @ R[0].T for r in R], [R[0] @ (x - c[0]) / scale for x in c]))
    (rotations, centres), (true_rotations, true_centres) = compared
    for R, expected in zip(rotations, true_rotations, strict=True):
        angle = np.degrees(np.arccos(np.clip((np.trace(R @ expected.T) - 1) / 2, -1, 1)))
        assert angle < 0.2
    np.testing.assert_allclose(centres, true_centres, atol=0.01)
