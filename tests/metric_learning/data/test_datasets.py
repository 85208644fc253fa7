import shutil

import numpy as np
import pytest
import torch

from flowmatch.io import write_image
from flowmatch.metric_learning.data.datasets import find_images
from flowmatch.metric_learning.data.images import LabelledImages, square_crop
from flowmatch.metric_learning.protocol import split_unseen


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


def test_splits_of_pictures(tmp_path):
    birds(tmp_path)
    (tmp_path / "train_test_split.txt").write_text("10 0\n1 1\n3 0\n2 1\n")
    images = find_images(tmp_path)
    train, test = images.split_pictures()
    assert shades(train) == [1, 2] and shades(test) == [3, 10]
    assert train.classes == test.classes == images.classes
    train, test = split_unseen(images, "classes")
    assert shades(train) == [1, 10] and shades(test) == [2, 3]
    assert [shades(part) for part in train.split_pictures()] == [[1], [10]]
    train, test = images.split_pictures(2)  # not the official split
    assert shades(train) == [1, 2, 3, 10] and not len(test)
    for text in ("1 1\n", "1 1\n2 1\n10 2\n3 0\n"):
        (tmp_path / "train_test_split.txt").write_text(text)
        with pytest.raises(ValueError, match=r"images.txt and train_test_split.txt disagree"):
            find_images(tmp_path)


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "val")])
def test_folders_with_a_split(tmp_path, train, test):
    for place, name in enumerate(("b/1.png", "b/2.png", "a/1.png", "c/1.png")):
        colour(tmp_path / train / name, 10 + place)
    for place, name in enumerate(("a/1.png", "b/1.png")):
        colour(tmp_path / test / name, 20 + place)
    images = find_images(tmp_path)
    assert images.classes == ("a", "b", "c") and images.train_classes is None
    parts = split_unseen(images, "pictures")
    assert [sorted(shades(part)) for part in parts] == [[10, 11, 12, 13], [20, 21]]
    assert parts[0].labels.tolist() == [0, 1, 1, 2] and parts[1].labels.tolist() == [0, 1]
    shutil.rmtree(tmp_path / test)
    colour(tmp_path / test / "d" / "1.png", 30)
    images = find_images(tmp_path)
    assert images.train_classes == 3 and images.train_pictures is None
    parts = split_unseen(images, "classes")
    assert parts[1].classes == ("d",) and shades(parts[1]) == [30]
    # Pictures beside the folders of classes: train and test are classes themselves.
    colour(tmp_path / train / "x.png", 40)
    assert len(find_images(tmp_path).classes) == 2


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
    assert images.train_pictures is None
    split = np.array(
        [(*row, test) for row, test in zip(rows.tolist(), (1, 0), strict=True)],
        dtype=[*rows.dtype.descr, ("test", np.uint8)],
    )
    savemat(tmp_path / "cars_annos.mat", {"annotations": split, "class_names": names})
    assert [shades(part) for part in find_images(tmp_path).split_pictures()] == [[2], [1]]
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
    for labels in ([0, 1], np.zeros(2), torch.zeros(2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"labels must be an array \[N\] of int64, got"):
            LabelledImages(np.zeros((2, 4, 4), np.uint8), labels, ("a",))
    with pytest.raises(ValueError, match=r"train_pictures must be \[1\], got \(2,\)"):
        picture, label = np.zeros((1, 4, 4), np.uint8), np.zeros(1, np.uint8)
        LabelledImages(picture, label, ("a",), train_pictures=np.ones(2, bool))
    for label in (-1, 1):
        with pytest.raises(ValueError, match=r"labels must be in 0\.\.0, one for each class, got"):
            LabelledImages(np.zeros((1, 4, 4), np.uint8), np.array([label]), ("a",))


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


@pytest.mark.filterwarnings("error")
def test_hidden_files_and_other_kinds(tmp_path):
    """Pictures by further suffixes count; what macOS writes beside each file does not."""
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, np.zeros((4, 5, 3), np.uint8))
    shutil.copy(tmp_path / "a/1.png", tmp_path / "b/3.jfif")
    for name in ("a/._1.png", ".thumbnails/1.png", "b/.cache/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    images = find_images(tmp_path)
    assert (images.classes, images.labels.tolist()) == (("a", "b"), [0, 0, 1, 1])
    assert [path.name for path in images.pictures] == ["1.png", "2.png", "1.png", "3.jfif"]
    (tmp_path / "b/4.heic").touch()
    with pytest.warns(UserWarning, match="skipped 1 picture of kinds that cannot be read: 4.heic"):
        find_images(tmp_path)
