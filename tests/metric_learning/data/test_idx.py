"""MNIST and datasets in its format, EMNIST for example."""

import gzip
import struct

import numpy as np
import pytest

from flowmatch.metric_learning.data.datasets import find_images
from flowmatch.metric_learning.data.idx import read_idx
from flowmatch.metric_learning.protocol import split_unseen


def idx(array):
    kind = 8 if array.dtype == np.uint8 else 12
    head = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
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


def write(folder, name, labels, start=0, zipped=True, part="test"):
    """Write a dataset of pictures that have their number as colour; the last three are a test."""
    pictures = np.arange(start, start + len(labels), dtype=np.uint8)
    pictures = pictures[:, None, None].repeat(4, 1).repeat(4, 2)
    count = len(labels) - 3
    for name_of_part, cut in (("train", slice(count)), (part, slice(count, None))):
        for kind, array in (("images-idx3", pictures), ("labels-idx1", np.uint8(labels))):
            content = idx(array[cut])
            path = folder / f"{name}{name_of_part}-{kind}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(content) if zipped else content)


def numbers(images):
    return [int(images.picture(i)[0, 0, 0]) for i in range(len(images))]


@pytest.mark.parametrize("part", ["t10k", "test"])
def test_the_split_of_mnist_is_kept(tmp_path, part):
    labels = [0, 1, 2] * 4
    write(tmp_path, "", labels, zipped=False, part=part)
    images = find_images(tmp_path)
    train, test = split_unseen(images, "pictures")
    assert numbers(train) == list(range(9)) and numbers(test) == [9, 10, 11]
    assert train.labels.tolist() == labels[:9] and test.classes == ("0", "1", "2")
    train, test = images.split_pictures(2)
    assert len(train) == len(test) == 6
    train, test = split_unseen(images, "classes")
    assert train.classes == ("0", "1") and test.labels.tolist() == [0] * 4
    (tmp_path / f"{part}-images-idx3-ubyte").unlink()
    with pytest.raises(ValueError, match=f"must have the pictures of {part}-labels-idx1-ubyte"):
        find_images(tmp_path)
    (tmp_path / f"{part}-labels-idx1-ubyte").unlink()
    train, test = split_unseen(find_images(tmp_path), "pictures")  # no split: every second picture
    assert (len(train), len(test)) == (6, 3)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="must have the labels of train-images-idx3-ubyte"):
        find_images(tmp_path)


def test_letters_of_emnist(tmp_path):
    write(tmp_path, "emnist-letters-", [1, 2, 3, 4, 2, 26, 1])
    images = find_images(tmp_path)
    assert images.classes == ("1", "2", "3", "4", "26")
    assert images.labels.tolist() == [0, 1, 2, 3, 1, 4, 0]
    train, test = images.split_classes()
    assert train.classes == ("1", "2", "3") and test.classes == ("4", "26")
    assert numbers(split_unseen(images, "pictures")[1]) == [4, 5, 6]


def test_a_folder_of_several_datasets(tmp_path):
    write(tmp_path, "emnist-letters-", [1, 2, 2, 1])
    write(tmp_path, "emnist-digits-", [7, 8, 9, 9, 8], start=100)
    with pytest.raises(ValueError, match="several datasets, give one of .*emnist-digits, "):
        find_images(tmp_path)
    assert numbers(find_images(tmp_path / "emnist-letters")) == [0, 1, 2, 3]
    assert find_images(tmp_path / "emnist-digits").classes == ("7", "8", "9")
    with pytest.raises(FileNotFoundError, match="there is no folder .*emnist-mnist"):
        find_images(tmp_path / "emnist-mnist")
    write(tmp_path, "", [3, 3, 4, 4], start=50)
    assert numbers(find_images(tmp_path)) == [50, 51, 52, 53]


def test_labels_of_qmnist(tmp_path):
    write(tmp_path, "qmnist-", [5, 6, 5, 6])
    for part, labels in (("train", [5]), ("test", [6, 5, 6])):
        (tmp_path / f"qmnist-{part}-labels-idx1-ubyte.gz").unlink()
        rows = np.array([[label, 0, 300, 1, 1, 1, 0, 0] for label in labels], ">i4")
        path = tmp_path / f"qmnist-{part}-labels-idx2-int.gz"
        path.write_bytes(gzip.compress(idx(rows)))
    images = find_images(tmp_path)
    assert images.classes == ("5", "6") and images.labels.tolist() == [0, 1, 0, 1]
    path = tmp_path / "qmnist-train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((1, 4, 4), ">i4"))))
    with pytest.raises(ValueError, match="must have bytes, got integers of 32 bits"):
        find_images(tmp_path)
    path.write_bytes(gzip.compress(idx(np.zeros((1, 5, 4), np.uint8))))
    with pytest.raises(ValueError, match="pictures must have one size, got"):
        find_images(tmp_path)


def test_a_damaged_stream(tmp_path):
    whole = bytearray(gzip.compress(idx(np.random.default_rng(0).integers(0, 9, 4000, np.uint8))))
    for place in range(10, len(whole), 97):
        damaged = whole.copy()
        damaged[place] ^= 0xFF
        (tmp_path / "x.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match="x.gz"):
            read_idx(tmp_path / "x.gz")
