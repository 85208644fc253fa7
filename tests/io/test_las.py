"""LAS and LAZ files: all dimensions, scales, offsets and records are kept."""

import numpy as np
import pytest

from flowmatch.io import merge_cloud_files, move_cloud_file, read_cloud, write_cloud
from flowmatch.io.cloud_file import read_table

laspy = pytest.importorskip("laspy")

POINTS = np.array([[500_000.123, 5_000_000.456, 99.5], [500_010.5, 5_000_020.25, 101.001]])
SHIFT = np.eye(4)
SHIFT[:3, 3] = [0.25, -1.5, 2]
WKT = 'PROJCS["ETRS89 / UTM zone 32N"]'


def write_las(path, points=POINTS, wkt=WKT, **header):
    head = laspy.LasHeader(**{"version": "1.4", "point_format": 7} | header)
    head.offsets, head.scales = [499_000, 4_999_000 if wkt else 0, 0], [0.001, 0.001, 0.001]
    head.vlrs.append(laspy.VLR("someone", 77, "a record", b"\1\2\3"))
    if wkt:
        head.vlrs.append(laspy.vlrs.known.WktCoordinateSystemVlr(wkt))
        head.global_encoding.wkt = True
    head.add_extra_dims([laspy.ExtraBytesParams("reflectance", "f4")])
    las = laspy.LasData(head)
    las.x, las.y, las.z = points.T
    count = len(points)
    las.intensity = np.arange(count) + 65_000
    las.return_number, las.number_of_returns = np.full(count, 2), np.full(count, 3)
    las.classification, las.point_source_id = np.full(count, 6), np.full(count, 1234)
    las.gps_time = 3e8 + np.arange(count) * 1e-6
    las.red, las.green, las.blue = np.arange(count) + [[65_535 - count], [300], [7]]
    las.reflectance = np.arange(count) - 0.1
    las.write(path)
    return laspy.read(path)


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_all_but_the_coordinates_is_kept(suffix, tmp_path):
    before = write_las(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(read_cloud(tmp_path / f"a{suffix}"), POINTS, atol=1e-9)
    assert move_cloud_file(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}", SHIFT) == []
    after = laspy.read(tmp_path / f"b{suffix}")
    np.testing.assert_allclose(after.xyz, POINTS + SHIFT[:3, 3], atol=1e-9)
    for name in before.point_format.dimension_names:
        if name not in "XYZ":
            np.testing.assert_array_equal(after[name], before[name], name)
    for name in ("scales", "offsets", "version", "point_format"):
        assert str(getattr(after.header, name)) == str(getattr(before.header, name))
    assert after.header.global_encoding.value == before.header.global_encoding.value
    records = [(r.user_id, r.record_id, r.record_data_bytes()) for r in after.header.vlrs]
    assert records == [(r.user_id, r.record_id, r.record_data_bytes()) for r in before.header.vlrs]
    assert after.header.parse_crs is not None
    np.testing.assert_array_equal(after.header.maxs, after.xyz.max(0))


def test_unmoved_coordinates_are_the_same_integers(tmp_path):
    rng = np.random.default_rng(0)
    before = write_las(tmp_path / "a.las", POINTS[0] + 1000 * rng.random((1000, 3)))
    move_cloud_file(tmp_path / "a.las", tmp_path / "b.las", np.eye(4))
    after = laspy.read(tmp_path / "b.las")
    np.testing.assert_array_equal(after.points.array, before.points.array)


def test_the_offset_changes_if_coordinates_do_not_fit(tmp_path):
    write_las(tmp_path / "a.las")
    far = np.eye(4)
    far[:3, 3] = [0, 5e6, 0]
    move_cloud_file(tmp_path / "a.las", tmp_path / "b.las", far)
    after = laspy.read(tmp_path / "b.las")
    np.testing.assert_allclose(after.xyz, POINTS + far[:3, 3], atol=1e-9)
    assert after.header.scales.tolist() == [0.001] * 3
    assert after.header.offsets[0] == 499_000


def test_the_reference_system_is_that_of_the_frame(tmp_path):
    write_las(tmp_path / "local.las", POINTS - POINTS[0], wkt=None)
    write_las(tmp_path / "utm.las")
    place = np.eye(4)
    place[:3, 3] = POINTS[0]
    move_cloud_file(tmp_path / "local.las", tmp_path / "b.las", place, frame=tmp_path / "utm.las")
    after = laspy.read(tmp_path / "b.las")
    np.testing.assert_allclose(after.xyz, POINTS, atol=0.001)
    assert [record.string for record in after.vlrs.get("WktCoordinateSystemVlr")] == [WKT]
    assert after.header.global_encoding.wkt
    assert [record.record_id for record in after.vlrs if record.user_id == "someone"] == [77]


def test_to_ply_and_back(tmp_path):
    before = write_las(tmp_path / "a.las")
    assert move_cloud_file(tmp_path / "a.las", tmp_path / "b.ply", np.eye(4)) == []
    columns = read_table(tmp_path / "b.ply").columns
    np.testing.assert_array_equal(read_cloud(tmp_path / "b.ply"), before.xyz)
    assert columns["intensity"].tolist() == [65_000, 65_001]
    assert columns["gps_time"].tolist() == before.gps_time.tolist()
    assert columns["red"].tolist() == [255, 255]  # of 65 533 and 65 534
    assert columns["green"].tolist() == [1, 1]
    assert move_cloud_file(tmp_path / "b.ply", tmp_path / "c.laz", np.eye(4)) == []
    after = laspy.read(tmp_path / "c.laz")
    np.testing.assert_allclose(after.xyz, before.xyz, atol=1e-9)
    for name in ("intensity", "return_number", "classification", "gps_time", "reflectance"):
        np.testing.assert_array_equal(after[name], before[name], name)
    assert after.red.tolist() == [65_535, 65_535]


def test_what_integers_do_not_hold_becomes_a_further_dimension(tmp_path):
    points = np.array([[1.0, 2, 3], [np.nan, 0, 0], [4, 5, 6]])
    np.savez(tmp_path / "a.npz", points=points, intensity=np.array([0.5, 1.5, 2.5]))
    lost = move_cloud_file(tmp_path / "a.npz", tmp_path / "b.las", np.eye(4))
    assert lost == ["1 rows without coordinates"]
    las = laspy.read(tmp_path / "b.las")
    assert las.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert las["intensity_value"].tolist() == [0.5, 2.5]
    assert las.header.point_format.id == 6


def test_merged(tmp_path):
    write_las(tmp_path / "a.las")
    write_las(tmp_path / "b.laz", POINTS + 50)
    assert merge_cloud_files(
        [tmp_path / "a.las", tmp_path / "b.laz"], tmp_path / "c.laz", [SHIFT, np.eye(4)],
        frame=tmp_path / "b.laz",
    ) == []  # fmt: skip
    las = laspy.read(tmp_path / "c.laz")
    expected = [*(POINTS + SHIFT[:3, 3]), *(POINTS + 50)]
    np.testing.assert_allclose(las.xyz, expected, atol=6e-5)
    assert las.intensity.tolist() == [65_000, 65_001] * 2
    assert las["scan"].tolist() == [0, 0, 1, 1]
    assert las.header.parse_crs is not None
    assert [record.string for record in las.vlrs.get("WktCoordinateSystemVlr")] == [WKT]


def test_an_empty_file_and_a_wide_one(tmp_path):
    write_cloud(tmp_path / "a.laz", np.zeros((0, 3)))
    assert read_cloud(tmp_path / "a.laz").shape == (0, 3)
    wide = np.array([[0.0, 0, 0], [1e7, 0, 0]])  # more steps of 0.1 mm than 32 bits hold
    write_cloud(tmp_path / "b.las", wide)
    np.testing.assert_allclose(read_cloud(tmp_path / "b.las"), wide, atol=0.005)


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_damaged_files(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    rng = np.random.default_rng(0)
    write_las(path, POINTS[0] + rng.random((5000, 3)))
    content = path.read_bytes()
    for damaged in (b"", b"LASF", b"x" * 400, content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="expected a LAS file"):
            read_cloud(path)
    claims = bytearray(content)
    claims[247:255] = (2**40).to_bytes(8, "little")  # number of points in LAS 1.4
    path.write_bytes(claims)
    with pytest.raises(ValueError, match="expected a LAS file"):
        read_cloud(path)
