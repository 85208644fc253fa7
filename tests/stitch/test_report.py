"""The report of a panorama: its files, its numbers, its pictures."""

import json

import numpy as np
import pytest

from flowmatch.io import read_image
from flowmatch.stitch import StitchOptions, StitchReport, find_cameras, render_panoramas
from flowmatch.stitch.photos import Photo
from flowmatch.stitch.report import draw_graph, file_name, graph_as_dot, safe_name

OPTIONS = StitchOptions(motion="affine", blend="none", exposure="none", seams="voronoi")


@pytest.fixture(scope="module")
def report(tmp_path_factory, other_scene):
    """The report of two crops of a picture, given from right to left, and a blank image."""
    folder = tmp_path_factory.mktemp("report") / "look"
    crops = [other_scene[300:600, x : x + 300] for x in (450, 300)]
    groups = find_cameras([*crops, np.full((80, 90), 128, np.uint8)], options=OPTIONS)
    report = StitchReport(folder)
    report.write_groups(groups, OPTIONS.confidence)
    panoramas = []
    for panorama in render_panoramas(groups, options=OPTIONS, on_warped=report.write_warped):
        report.write_panorama(panorama)
        panoramas.append(panorama)
    return folder, groups, panoramas


def test_files(report):
    folder, _, _ = report
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    names = ("001_photo_1.jpg", "002_photo_2.jpg")
    (matches,) = (folder / "matches").iterdir()
    assert sorted(matches.stem.split("--")) == ["001_photo_1", "002_photo_2"]
    assert files == {
        "report.json", "graph.dot", "graph.png", "panorama_1_seams.jpg", f"matches/{matches.name}",
        "keypoints/003_photo_3.jpg", *(f"keypoints/{name}" for name in names),
        *(f"{stage}/panorama_1_{name}" for stage in ("warped", "seams") for name in names),
    }  # fmt: skip


def test_numbers(report):
    folder, groups, (panorama,) = report
    contents = json.loads((folder / "report.json").read_text())
    assert contents["confidence_needed"] == 1.0
    assert [photo["name"] for photo in contents["photos"]] == ["photo 1", "photo 2", "photo 3"]
    assert [photo["width"] for photo in contents["photos"]] == [300, 300, 90]
    assert [photo["keypoints"] > 0 for photo in contents["photos"]] == [True, True, False]
    (pair,) = contents["pairs"]
    (matched,) = (item for item in groups.pairs if len(item.matches.matches))
    assert pair["matches"] == len(matched.matches.matches) and pair["inliers"] == matched.inliers
    assert pair["confidence"] == round(matched.confidence, 3) and pair["rejected_because"] is None
    assert contents["left_out"] == [
        {"name": "photo 3", "reason": "no keypoints: it is blank, blurred or too small"}
    ]
    (numbers,) = contents["panoramas"]
    assert numbers["photos"] == ["photo 1", "photo 2"] and numbers["motion"] == "affine"
    assert numbers["size_before_cropping"] == list(panorama.uncropped.shape[1::-1])
    assert numbers["size"] == list(panorama.image.shape[1::-1])
    assert numbers["messages"] == []


def test_pictures_belong_to_their_photos(report, other_scene):
    folder, _, (panorama,) = report
    for number, x in ((1, 450), (2, 300)):
        warped = read_image(folder / "warped" / f"panorama_1_00{number}_photo_{number}.jpg")
        crop = other_scene[300:600, x : x + 300]
        assert np.abs(warped[5:290, 5:290].astype(int) - crop[5:290, 5:290]).mean() < 15
    seams = read_image(folder / "panorama_1_seams.jpg").astype(int)
    assert seams.shape == panorama.uncropped.shape
    pink = np.minimum(seams[..., 0], seams[..., 2]) - seams[..., 1] > 100
    rows, columns = np.nonzero(pink)
    # One seam from top to bottom, where the photos overlap.
    assert len(np.unique(rows)) > 0.9 * seams.shape[0]
    assert 140 < columns.min() <= columns.max() < 310
    assert np.abs(seams - panorama.uncropped)[~pink].mean() < 5


def test_graph(report):
    folder, groups, _ = report
    text = graph_as_dot(groups.views, groups.pairs, 1.0)
    assert (folder / "graph.dot").read_text() == text
    (matched,) = (item for item in groups.pairs if item.inliers)
    first, second = groups.views[matched.first].name, groups.views[matched.second].name
    label = f"{matched.inliers} of {len(matched.matches.matches)}, {matched.confidence:.2f}"
    assert text.splitlines() == [
        "graph matches {", "  node [shape=box];",
        *(f'  "{view.name}";' for view in groups.views),
        f'  "{first}" -- "{second}" [label="{label}", style=solid];', "}",
    ]  # fmt: skip
    assert "style=dashed" in graph_as_dot(groups.views, groups.pairs, 99.0)
    unconnected = draw_graph(groups.views, [], 1.0)
    for confidence, is_green in ((1.0, True), (99.0, False)):
        page = draw_graph(groups.views, groups.pairs, confidence)
        assert (page != unconnected).any(2).sum() > 100
        assert ((page == (30, 150, 60)).all(2).sum() > 100) == is_green


def test_file_names():
    assert safe_name("../a b/ä(1).jpg") == "a_b_1"
    assert file_name(Photo(None, "x.png", 11)) == "012_x"
