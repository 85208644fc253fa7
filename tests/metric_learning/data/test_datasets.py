import gzip
import struct

import numpy as np
import pytest
import torch

from flowmatch.io import write_image
from flowmatch.metric_learning.data.datasets import find_images, read_idx
from flowmatch.metric_learning.data.images import LabelledImages, square_crop


def colour(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((6, 8, 3), shade, np.uint8))


def shades(images):
    return [int(images.picture(i)[0, 0, 0]) for i in range(len(images))]


def test_folder_of_classes(tmp_path):
    for place, name in enumerate(("b/2.png", "b/deep/1.png", "a/1.png", "c/1.png", "c/2.png")):
        colour(tmp_path / name, 10 * place)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    images = find_images(tmp_path)
    assert images.classes == ("a", "b", "c") and images.channels == 3
    assert images.labels.tolist() == [0, 1, 1, 2, 2]
    assert shades(images) == [20, 0, 10, 30, 40]
    train, test = images.split_classes()
    assert (train.classes, test.classes) == (("a", "b"), ("c",))
    assert test.labels.tolist() == [0, 0] and shades(test) == [30, 40]
    train, test = images.split_pictures()
    assert shades(train) == [20, 0, 30] and shades(test) == [10, 40]
    assert test.labels.tolist() == [1, 2]
    with pytest.raises(ValueError, match="got 3 for training"):
        images.split_classes(3)
    with pytest.raises(ValueError, match="two classes or more, got 1"):
        find_images(tmp_path / "b")
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        find_images(tmp_path / "nowhere")


def birds(folder):
    (folder / "classes.txt").write_text("1 001.Auk\n2 002.Bat\n10 010.Crow\n3 003.Dove\n")
    rows = [("1", "1"), ("2", "10"), ("10", "2"), ("3", "3")]
    (folder / "images.txt").write_text("".join(f"{i} {c}/x{i}.png\n" for i, c in rows))
    (folder / "image_class_labels.txt").write_text("".join(f"{i} {c}\n" for i, c in rows))
    for i, c in rows:
        colour(folder / "images" / c / f"x{i}.png", int(i))


def test_cub(tmp_path):
    birds(tmp_path)
    images = find_images(tmp_path)
    assert images.classes == ("001.Auk", "002.Bat", "003.Dove", "010.Crow")
    assert images.labels.tolist() == [0, 3, 2, 1] and shades(images) == [1, 2, 3, 10]
    assert images.train_classes == 2
    (tmp_path / "image_class_labels.txt").write_text("1 1\n")
    with pytest.raises(ValueError, match="disagree"):
        find_images(tmp_path)
    birds(tmp_path)
    (tmp_path / "images.txt").write_text("1 ../../secret.png\n2 a\n10 b\n3 c\n")
    with pytest.raises(ValueError, match="must be below"):
        find_images(tmp_path)
    (tmp_path / "images.txt").write_text("one\n")
    with pytest.raises(ValueError, match="line 1: must have 2 words, got 1"):
        find_images(tmp_path)
    (tmp_path / "images.txt").write_text("x a\n")
    (tmp_path / "image_class_labels.txt").write_text("x 1\n")
    with pytest.raises(ValueError, match="whole number, got 'x'"):
        find_images(tmp_path)


def test_cars(tmp_path):
    from scipy.io import savemat

    rows = np.array(
        [("car_ims/1.png", 2), ("car_ims/2.png", 1)],
        dtype=[("relative_im_path", object), ("class", np.uint8)],
    )
    names = np.array(["Audi", "BMW"], dtype=object)
    savemat(tmp_path / "cars_annos.mat", {"annotations": rows, "class_names": names})
    for i in (1, 2):
        colour(tmp_path / f"car_ims/{i}.png", i)
    images = find_images(tmp_path)
    assert images.classes == ("Audi", "BMW") and images.labels.tolist() == [1, 0]
    assert shades(images) == [1, 2] and images.train_classes == 1
    rows["class"] = 3
    savemat(tmp_path / "cars_annos.mat", {"annotations": rows, "class_names": names})
    with pytest.raises(ValueError, match=r"classes must be in 1\.\.2"):
        find_images(tmp_path)
    with (tmp_path / "cars_annos.mat").open("wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(ValueError, match="must have 16777216 bytes at most"):
        find_images(tmp_path)
    (tmp_path / "cars_annos.mat").write_bytes(b"MATLAB 5.0" * 40)
    with pytest.raises(ValueError, match="not the list of CARS-196"):
        find_images(tmp_path)


def test_online_products(tmp_path):
    head = "image_id class_id super_class_id path\n"
    (tmp_path / "Ebay_train.txt").write_text(head + "1 7 1 a_final/1.png\n2 5 1 a_final/2.png\n")
    (tmp_path / "Ebay_test.txt").write_text(head + "3 9 2 b c_final/3.png\n")
    for i, folder in ((1, "a_final"), (2, "a_final"), (3, "b c_final")):
        colour(tmp_path / folder / f"{i}.png", i)
    images = find_images(tmp_path)
    assert images.classes == ("7", "5", "9") and shades(images) == [1, 2, 3]
    train, test = images.split_classes()
    assert train.classes == ("7", "5") and test.labels.tolist() == [0]
    (tmp_path / "Ebay_test.txt").write_text(head + "3 7 2 b\n")
    with pytest.raises(ValueError, match="class 7 is in the other list"):
        find_images(tmp_path)


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


def test_mnist(tmp_path):
    pictures = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    labels = np.array([1, 0, 2, 1, 0], np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(pictures[:3]))
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx(labels[:3]))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pictures[3:])))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[3:])))
    images = find_images(tmp_path)
    assert images.channels == 1 and images.classes == ("0", "1", "2")
    assert images.labels.tolist() == [1, 0, 2, 1, 0]
    assert (images.picture(4)[..., 0] == pictures[4]).all()
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[4:])))
    with pytest.raises(ValueError, match=r"must be \[N, H, W\] and \[N\], got \(2, 4, 3\)"):
        find_images(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must begin with 00 00 08"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "got 00000d01"),
        (b"\0\0\x08\x05" + bytes(40), "must begin with"),
        (b"\0\0\x08\x02\0\0", "must hold"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "must hold up to"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "must hold 5 bytes for .5., got 3"),
        (b"\0\0\x08\x01\0\0\0\x02abc", "must hold 2 bytes for .2., got more"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_idx(tmp_path, content, message, zipped):
    path = tmp_path / ("x.gz" if zipped else "x")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(ValueError, match=message):
        read_idx(path)


def test_damaged_gzip(tmp_path):
    path = tmp_path / "x.gz"
    whole = gzip.compress(idx(np.random.default_rng(0).integers(0, 255, 4000, np.uint8)))
    for content in (b"no gzip", whole[:200]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a whole gzip file"):
            read_idx(path)


def test_digits():
    images = find_images("digits")
    assert len(images) == 1797 and images.channels == 1 and images.natural_size("small") == 8
    assert images.picture(0).shape == (8, 8, 1) and images.picture(0).max() > 230
    train, test = images.split_classes()
    assert train.classes == ("0", "1", "2", "3", "4") and test.classes[0] == "5"
    parts = images.split_pictures(3)
    assert abs(len(parts[1]) - 1797 / 3) < 10
    assert np.array_equal(np.unique(parts[1].labels), np.arange(10))


def test_labels_must_fit():
    with pytest.raises(ValueError, match="as many labels as pictures, got 1 for 2"):
        LabelledImages(np.zeros((2, 4, 4), np.uint8), np.zeros(1, np.int64), ("a",))


def test_square_crops():
    picture = np.zeros((14, 30, 3), np.uint8)
    picture[:, 15:] = 200
    middle = square_crop(picture, 12)
    assert middle.shape == (3, 12, 12)
    assert (middle[:, :, :5] == 0).all() and (middle[:, :, 7:] == 200).all()
    same = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    assert (square_crop(same, 8)[0].numpy() == same[..., 0]).all()
    generator = torch.Generator().manual_seed(0)
    crops = [square_crop(picture, 12, generator) for _ in range(40)]
    starts = {int(crop[0, 0, 0]) < int(crop[0, 0, -1]) for crop in crops}
    assert starts == {True, False}  # mirrored or not
    assert len({int((crop[0, 0] > 100).sum()) for crop in crops}) > 3  # crops differ
    assert square_crop(np.zeros((9, 50), np.uint8)[..., None], 20).shape == (1, 20, 20)
