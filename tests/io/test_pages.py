"""Files with several pictures: the first is read, and that is said."""

import warnings

import numpy as np
import pytest
from PIL import Image, features

from flowmatch._opencv import cv2
from flowmatch.io import read_frames, read_image

PICTURES = [Image.fromarray(np.full((20, 30, 3), 60 * k, np.uint8)) for k in range(4)]
KINDS = ["a.tif", "a.webp", "a.png", "a.gif", "a.avif"]


def save(path, count):
    if path.suffix == ".avif" and not (features.check("avif") and cv2.haveImageWriter(".avif")):
        pytest.skip("this Pillow or OpenCV has no AVIF")
    more = {} if count == 1 else {"save_all": True, "append_images": PICTURES[1:count]}
    PICTURES[0].save(path, **more)
    return path


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_further_pictures_of_a_file_are_told(name, count, tmp_path):
    path = save(tmp_path / name, count)
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("default")
        assert read_image(path).max() <= 3  # the first, which is black
    told = [str(message.message) for message in messages]
    assert len(told) == (count > 1)
    assert all(f"in {tmp_path} has several pages" in text for text in told)


def test_a_folder_of_stacks_is_told_once(tmp_path):
    for k in range(3):
        save(tmp_path / f"{k}.tif", 3)
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("default")
        assert len(list(read_frames(tmp_path))) == 3
        assert len(list(read_frames(tmp_path / "0.tif"))) == 3  # by itself, all its pages
    assert len(messages) == 1


@pytest.mark.parametrize("form", [{"byteorder": "<"}, {"byteorder": ">"}, {"bigtiff": True}])
@pytest.mark.parametrize(("reduced", "told"), [({"subfiletype": 1}, 0), ({}, 1)])
def test_thumbnails_of_a_tiff_are_no_pages(form, reduced, told, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "a.tif", **form) as writer:
        writer.write(np.zeros((20, 30), np.uint8), metadata=None)
        writer.write(np.zeros((10, 15), np.uint8), metadata=None, **reduced)
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("default")
        read_image(tmp_path / "a.tif")
    assert len(messages) == told


@pytest.mark.parametrize("name", KINDS)
def test_cut_files_with_pages_raise_no_other_errors(name, tmp_path):
    content = save(tmp_path / name, 3).read_bytes()
    for length in (13, 14, 21, 40, 100, len(content) // 2, len(content) - 2):
        (tmp_path / name).write_bytes(content[:length])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read_image(tmp_path / name)
            except ValueError as error:
                assert name in str(error)
