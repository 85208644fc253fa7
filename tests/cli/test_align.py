"""``flowmatch align``: outputs, messages, and exit status."""

import numpy as np
import pytest

from flowmatch._opencv import cv2
from flowmatch.align import read_alignment
from flowmatch.cli import main
from flowmatch.draw import checkerboard
from flowmatch.io import read_image, write_image


def words(folder, *more):
    return ["align", *(str(folder / f"{k}.png") for k in "ab"), "-o", str(folder / "o.png"), *more]


def test_sift_by_name(turned_pair, capsys, photo):
    assert main(words(turned_pair, "--model", "sift-affine")) == 0
    assert (
        "aligned by sift-affine (97 % of the points agree, median error 0.1 px), in"
        in capsys.readouterr().err
    )
    warped = read_image(turned_pair / "o-warped.png")
    inside = (slice(40, -40), slice(60, -60))
    assert np.abs(warped[inside].astype(float) - photo[inside]).mean() < 5
    np.testing.assert_array_equal(read_image(turned_pair / "o.png"), checkerboard(photo, warped))


def test_models_by_name_and_file(turned_pair, align_weights, capsys):
    assert main(words(turned_pair, "--model", "identity")) == 0
    assert "aligned by identity, in" in capsys.readouterr().err
    warped, second = (read_image(turned_pair / name) for name in ("o-warped.png", "b.png"))
    np.testing.assert_array_equal(warped, second)
    for option in ("--weights", "--model"):
        assert main(words(turned_pair, option, str(align_weights))) == 0
        assert f"aligned by {align_weights}" in capsys.readouterr().err
        assert read_image(turned_pair / "o-warped.png").shape == (300, 451, 3)


def test_the_transform_is_written_and_applied_to_another_file(turned_pair):
    second = read_image(turned_pair / "b.png")
    write_image(turned_pair / "labels.png", 255 - second)
    targets = [str(turned_pair / f"t{suffix}") for suffix in (".json", ".npz", ".csv")]
    more = [word for target in targets for word in ("-o", target)]
    more += ["--model", "sift-affine", "--apply", str(turned_pair / "labels.png")]
    assert main(words(turned_pair, *more)) == 0
    alignment = read_alignment(targets[0])
    warped = read_image(turned_pair / "o-warped.png")
    np.testing.assert_array_equal(alignment.warp(second), warped)
    inverted = read_image(turned_pair / "labels-warped.png").astype(int)
    inside = (slice(40, -40), slice(60, -60))
    assert np.abs(inverted + warped - 255)[inside].max() <= 1
    with np.load(targets[1]) as archive:
        places = archive["map"]
    remapped = cv2.remap(second, places, None, cv2.INTER_LINEAR)
    assert np.abs(remapped.astype(int) - warped)[inside].max() <= 3
    rows = np.loadtxt(targets[2], delimiter=",", skiprows=1)
    assert rows.shape == (400, 4)
    np.testing.assert_allclose(alignment.points(rows[:, :2]), rows[:, 2:], atol=1e-2)


def test_no_transform_is_status_1(turned_pair, capsys):
    write_image(turned_pair / "b.png", np.zeros((30, 40, 3), np.uint8))
    assert main(words(turned_pair, "--model", "sift-affine")) == 1
    assert "not aligned: sift-affine found no transform" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "orb"], "no weights named 'orb' ship with flowmatch"),
        (["--model", "identity", "--weights", "w.safetensors"], "--weights are for a network, not"),
        (["--apply", "{folder}/small.png"], "expected the size of"),
        (["--apply", "{folder}/o.png"], "two results would have one name"),
        (["-o", "out.txt"], "out.txt: expected a name ending in one of"),
        (["-o", "none/out.png", "--weights", "none.safetensors"], "there is no folder none"),
        (["--weights", "none.safetensors"], "no file of weights"),
    ],
)
def test_bad_input_is_one_line(turned_pair, more, message, capsys):
    write_image(turned_pair / "small.png", np.zeros((30, 40, 3), np.uint8))
    assert main(words(turned_pair, *(word.format(folder=turned_pair) for word in more))) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
