"""``flowmatch stitch``: panoramas, messages, and errors."""

import json
import shutil

import cv2
import numpy as np
import pytest

from flowmatch.cli import main
from flowmatch.io import read_image, write_image
from flowmatch.io.masked import read_masked


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo):
    """Return a folder of scans, three of a cat and two of an astronaut; a cup; a broken file."""
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    for name, x in {"cat_b": 90, "cat_a": 0, "cat_c": 180}.items():
        write_image(folder / f"{name}.png", np.ascontiguousarray(photo[:240, x : x + 240]))
    for name, x in {"man_a": 60, "man_b": 140}.items():
        crop = np.ascontiguousarray(data.astronaut()[:240, x : x + 240])
        write_image(folder / f"{name}.png", crop)
    write_image(folder / "cup.png", np.ascontiguousarray(data.coffee()[:240, 120:360]))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    return folder


def test_folder_of_everything(folder, tmp_path, capsys, photo):
    words = ["stitch", str(folder), "-o", str(tmp_path / "pano.png"), "--motion", "affine"]
    words += ["--verbose-dir", str(tmp_path / "look"), "--save-cameras", str(tmp_path / "c.json")]
    assert main(words) == 0
    err = capsys.readouterr().err
    assert "left out: broken.jpg:" in err and "is damaged" in err
    assert "left out: cup.png: overlaps" in err
    assert "3 photos (cat_a.png, cat_b.png, cat_c.png), 420 x 240 pixels" in err
    assert "2 photos (man_a.png, man_b.png), 320 x 240 pixels" in err
    made = read_image(tmp_path / "pano.png").astype(float)
    assert np.abs(made - photo[:240, :420]).mean() < 3
    assert read_image(tmp_path / "pano_2.png").shape == (240, 320, 3)
    _check_report(tmp_path / "look")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"pano.png", "pano_2.png", "c.json", "c_2.json", "look"}
    # Cameras are for the photos they name; the rest is left out.
    again = ["stitch", str(folder), "-o", str(tmp_path / "again.png")]
    (folder / "broken.jpg").unlink()
    assert main([*again, "--cameras", str(tmp_path / "c.json")]) == 0
    assert "left out: cup.png: it has no camera" in capsys.readouterr().err
    np.testing.assert_array_equal(read_image(tmp_path / "again.png"), made)


def _check_report(folder):
    report = json.loads((folder / "report.json").read_text())
    assert {photo["name"] for photo in report["left_out"]} == {"broken.jpg", "cup.png"}
    assert len(report["photos"]) == 6
    best = report["pairs"][0]
    assert best["confidence"] >= 1 and best["inliers"] <= best["matches"]
    first, second = report["panoramas"]
    assert first["photos"] == ["cat_a.png", "cat_b.png", "cat_c.png"]
    assert first["size"] == [420, 240] and second["motion"] == "affine"
    dot = (folder / "graph.dot").read_text()
    assert dot.startswith("graph matches {") and '"cup.png";' in dot and "style=solid" in dot
    assert read_image(folder / "graph.png").shape[2] == 3
    assert len(list((folder / "keypoints").iterdir())) == 6
    assert len(list((folder / "warped").iterdir())) == 5
    assert len(list((folder / "seams").iterdir())) == 5
    assert (folder / "matches" / "002_cat_a--003_cat_b.jpg").is_file() or (
        folder / "matches" / "003_cat_b--002_cat_a.jpg"
    ).is_file()
    drawn = read_image(folder / "panorama_1_seams.jpg").astype(int)
    pink = np.minimum(drawn[..., 0], drawn[..., 2]) - drawn[..., 1] > 40
    assert pink.any(axis=1).mean() > 0.5  # seams run from top to bottom


def test_photos_and_panoramas_in_one_folder(folder, tmp_path, capsys):
    """No photo is overwritten, and no panorama of the run before is a photo of the next."""
    names = {"cat_a": "pano_2", "cat_b": "cat", "man_a": "man_a", "man_b": "pano_1"}
    for name, new in names.items():
        shutil.copy(folder / f"{name}.png", tmp_path / f"{new}.png")
    photos = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "._cat.png").write_bytes(b"what macOS leaves beside a file")
    words = ["stitch", str(tmp_path), "-o", str(tmp_path / "pano.png"), "--motion", "affine"]
    for _ in range(2):
        assert main(words) == 0
        err = capsys.readouterr().err
        assert "left out" not in err and err.count("2 photos (") == 2
        assert all(path.read_bytes() == content for path, content in photos.items())
        names = {path.name for path in tmp_path.glob("pano*")}
        assert names == {"pano.png", "pano_1.png", "pano_2.png", "pano_3.png"}


def test_pictures_of_photos_named_alike(folder, tmp_path):
    for old, new in {"cat_a.png": "x.png", "cat_b.png": "x.bmp"}.items():
        write_image(tmp_path / new, read_image(folder / old))
    words = ["stitch", str(tmp_path / "x.png"), str(tmp_path / "x.bmp"), "--motion", "affine"]
    words += ["-o", str(tmp_path / "pano.png"), "--save-cameras", str(tmp_path / "c.json")]
    again = [*words[:3], "-o", str(tmp_path / "p.png"), "--cameras", str(tmp_path / "c.json")]
    for number, line in enumerate((words, again)):
        look = tmp_path / f"look{number}"
        assert main([*line, "--verbose-dir", str(look)]) == 0
        for stage in ("warped", "seams"):
            names = {path.name for path in (look / stage).iterdir()}
            assert names == {"panorama_1_001_x.jpg", "panorama_1_002_x.jpg"}


def test_weights_that_ship_describe(folder, tmp_path, capsys):
    words = [str(folder / f"man_{letter}.png") for letter in "ab"] + ["--motion", "affine"]
    words += ["-o", str(tmp_path / "pano.png"), "--keypoints", "300", "--device", "cpu"]
    assert main(["stitch", *words, "--model", "default"]) == 0
    assert "320 x 240 pixels" in capsys.readouterr().err
    assert main(["stitch", *words, "--model", "surf"]) == 2
    assert "a descriptor must be one of rootsift, sift, orb, default" in capsys.readouterr().err


@pytest.mark.parametrize("crop", ["--crop", "--no-crop"])
def test_limits_of_the_format_are_met_before_the_work(folder, tmp_path, capsys, monkeypatch, crop):
    """A panorama wider than a WebP holds is refused before seams; its cameras are kept."""
    from flowmatch.io import image
    from flowmatch.stitch import compose

    def no_work(*_):
        raise AssertionError("seams were searched for")

    words = ["stitch", *(str(folder / f"cat_{letter}.png") for letter in "abc"), crop]
    words += ["--motion", "affine", "--save-cameras", str(tmp_path / "c.json")]
    monkeypatch.setitem(image._MAX_SIDES, ".webp", 430)
    assert main([*words, "-o", str(tmp_path / "pano.webp")]) == 0
    assert read_image(tmp_path / "pano.webp").shape[1] in (420, 421)
    (tmp_path / "c.json").unlink()
    monkeypatch.setitem(image._MAX_SIDES, ".webp", 400)
    monkeypatch.setattr(compose, "find_seams", no_work)
    assert main([*words, "-o", str(tmp_path / "wide.webp")]) == 2
    err = capsys.readouterr().err
    assert "wide.webp: .webp holds at most 400 x 400 pixels, got 4" in err
    assert {path.name for path in tmp_path.iterdir()} == {"pano.webp", "c.json"}
    again = [*words[:4], "--cameras", str(tmp_path / "c.json"), "-o", str(tmp_path / "wide.png")]
    monkeypatch.undo()
    assert main(again) == 0


def test_nothing_is_written_when_nothing_overlaps(folder, tmp_path, capsys):
    target = tmp_path / "pano.jpg"
    target.write_bytes(b"old")
    photos = [str(folder / "cat_a.png"), str(folder / "cup.png")]
    assert main(["stitch", *photos, "-o", str(target)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: no two of the 2 photos make a panorama: cat_a.png: overlaps")
    assert "confidence" in err and len(err.strip().splitlines()) == 1
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["pano.jpg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["PHOTO", "-o", "OUT.jpg"], "at least two photos, got 1"),
        (["PHOTO", "PHOTO", "-o", "OUT.gif"], "expected a name ending in one of .png"),
        (["PHOTO", "PHOTO", "-o", "none/OUT.jpg"], "there is no folder"),
        (["EMPTY", "-o", "OUT.jpg"], "holds no picture"),
        (["PHOTO", "PHOTO", "-o", "PHOTO"], "cat_a.png cannot be written: it is one of the photos"),
        (["PHOTO", "PHOTO", "-o", "OUT.jpg", "--save-cameras", "PHOTO"], "is one of the photos"),
        (["PHOTO", "missing.jpg", "-o", "OUT.jpg"], "error: missing.jpg does not exist"),
        (["nosuch", "-o", "OUT.jpg"], "error: nosuch does not exist"),
        (["PHOTO", "PHOTO", "-o", "OUT.jpg", "--projection", "x"], "projection must be one of"),
        (["PHOTO", "PHOTO", "-o", "OUT.jpg", "--neighbours", "0"], "neighbours must be positive"),
        (["PHOTO", "PHOTO", "-o", "OUT.jpg", "--masks", "nosuch"], "must be a folder of masks"),
        (["PHOTO", "PHOTO", "-o", "OUT.jpg", "--masks", "EMPTY"], "holds no picture"),
        (["PHOTO", "PHOTO", "-o", "OUT.jpg", "--wave", "x"], "wave must be one of"),
        (["PHOTO", "PHOTO", "-o", "OUT.jpg", "--cameras", "PHOTO"], "is not a file of cameras"),
        (
            [
                "PHOTO",
                "PHOTO",
                "-o",
                "OUT.jpg",
                "--cameras",
                "PHOTO",
                "--motion",
                "affine",
                "--wave",
                "none",
            ],
            "--cameras matches nothing: it takes no --motion, --wave",
        ),
        (
            ["PHOTO", "PHOTO", "-o", "OUT.jpg", "--cameras", "PHOTO", "--min-confidence", "0.5"],
            "it takes no --min-confidence",
        ),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    known = {"PHOTO": str(folder / "cat_a.png"), "EMPTY": str(tmp_path / "empty")}
    words = [
        known.get(w, w.replace("OUT", str(tmp_path / "out")) if "/" not in w else w) for w in words
    ]
    assert main(["stitch", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err
    assert {path.name for path in tmp_path.iterdir()} == {"empty"}


def test_photos_are_never_all_in_memory(folder, tmp_path, monkeypatch):
    """One photo at full size is alive at any time."""
    import weakref

    from flowmatch.stitch import photos as module

    alive = []

    def counted(read):
        def reading(path):
            assert sum(reference() is not None for reference in alive) <= 1
            result = read(path)
            alive.append(weakref.ref(result if read is read_image else result.image))
            return result

        return reading

    for read in (read_image, read_masked):
        monkeypatch.setattr(module, read.__name__, counted(read))
    photos = [str(folder / f"cat_{letter}.png") for letter in "abc"]
    assert main(["stitch", *photos, "-o", str(tmp_path / "pano.png"), "--motion", "affine",
                 "--keypoint-megapixels", "0.05", "--seam-megapixels", "0.03"]) == 0  # fmt: skip
    assert len(alive) == 9
    assert cv2.imread(str(tmp_path / "pano.png")) is not None


def test_masks_and_neighbours(folder, tmp_path, capsys):
    """A mask of another size leaves its photo out; a black one hides its part."""
    (tmp_path / "masks").mkdir()
    write_image(tmp_path / "masks/cat_c.png", np.full((10, 240), 255, np.uint8))
    white = np.full((240, 240), 255, np.uint8)
    white[:, :30] = 0
    write_image(tmp_path / "masks/cat_a.png.png", white)
    names = [str(folder / f"cat_{k}.png") for k in "abc"]
    words = ["stitch", *names, "-o", str(tmp_path / "pano.png"), "--motion", "affine"]
    assert main([*words, "--masks", str(tmp_path / "masks"), "--neighbours", "1"]) == 0
    err = capsys.readouterr().err
    assert "left out: cat_c.png:" in err and "must have the size of cat_c.png, 240 x 240" in err
    assert "2 photos (cat_a.png, cat_b.png), 300 x 240 pixels" in err


def test_frames_of_a_video(tmp_path, capsys, photo):
    """A camera sweeps over a picture; a few of its 60 frames make the panorama."""
    clip = tmp_path / "sweep.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 25, (200, 240))
    for x in range(0, 240, 4):
        writer.write(np.ascontiguousarray(photo[:240, x : x + 200, ::-1]))
    writer.release()
    words = ["stitch", str(clip), "-o", str(tmp_path / "pano.png"), "--motion", "affine"]
    assert main([*words, "--frame-overlap", "0.7", "--max-side", "400"]) == 0
    err = capsys.readouterr().err
    assert "6 frames of" in err and "6 photos (sweep_000000.png, sweep_000014.png," in err
    made = read_image(tmp_path / "pano.png")
    assert 380 <= made.shape[1] <= 400
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.avi", "pano.png"}
    assert main(["stitch", str(clip), "-o", str(tmp_path / "p.png"), "--frame-overlap", "1"]) == 2
    assert "overlap must be between 0 and 1, got 1.0" in capsys.readouterr().err
