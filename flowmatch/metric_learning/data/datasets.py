"""Readers of labelled images: folders of classes, standard datasets, IDX files."""

import gzip
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch.io import IMAGE_SUFFIXES
from flowmatch.metric_learning._extras import scikit_learn
from flowmatch.metric_learning.data.images import LabelledImages

_LARGEST_IDX = 2**32  # bytes; the largest published IDX files (QMNIST, EMNIST) have 0.5 GB
_LONGEST_LIST = 2**27  # bytes of a text file
_LARGEST_MAT = 2**24  # bytes; CARS-196 has half a million, and the content is compressed


def find_images(data: str | Path) -> LabelledImages:
    """Read a dataset, whose format is detected.

    Args:
        data: ``"digits"`` for scikit-learn's digits, or a folder: CUB-200-2011, CARS-196, Stanford
            Online Products or MNIST as unpacked, else one sub-folder of pictures for each class.

    Raises:
        ValueError: A file is damaged or names a file outside the folder, or classes are missing.
        FileNotFoundError: The folder does not exist.
        ImportError: scikit-learn is missing, for digits.

    Example:
        >>> find_images("digits").classes[:3]
        ('0', '1', '2')
    """
    if str(data) == "digits":
        return digits()
    folder = Path(data)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} (and it is not digits)")
    for mark, reader in (
        ("image_class_labels.txt", cub200),
        ("cars_annos.mat", cars196),
        ("Ebay_train.txt", online_products),
    ):
        if (folder / mark).is_file():
            return reader(folder)
    return mnist(folder) if _idx_file(folder, "train", "images") else folder_of_classes(folder)


def folder_of_classes(folder: str | Path) -> LabelledImages:
    """Read a folder with one sub-folder of pictures for each class, in alphabetical order.

    Args:
        folder: The folder; sub-folders without pictures are ignored.

    Raises:
        ValueError: There are fewer than two classes.
    """
    paths: list[Path] = []
    labels: list[int] = []
    classes: list[str] = []
    for sub in sorted(p for p in Path(folder).iterdir() if p.is_dir()):
        pictures = sorted(p for p in sub.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if pictures:
            labels += [len(classes)] * len(pictures)
            classes.append(sub.name)
            paths += pictures
    if len(classes) < 2:
        raise ValueError(
            f"{folder} must have a sub-folder of pictures for each of two classes or more, "
            f"got {len(classes)}"
        )
    return LabelledImages(paths, np.array(labels, np.int64), tuple(classes))


def cub200(folder: str | Path) -> LabelledImages:
    """Read Caltech-UCSD Birds 200-2011, with its first 100 classes for training.

    Args:
        folder: Folder ``CUB_200_2011``, with ``images.txt``, ``image_class_labels.txt`` and
            ``classes.txt``.

    Raises:
        ValueError: The lists do not fit each other.

    Reference:
        Wah, Branson, Welinder, Perona & Belongie, 2011; split as Song et al., CVPR 2016.
    """
    folder = Path(folder)
    names = dict(_rows(folder / "classes.txt", 2))
    files = dict(_rows(folder / "images.txt", 2))
    labels = dict(_rows(folder / "image_class_labels.txt", 2))
    if files.keys() != labels.keys() or not set(labels.values()) <= names.keys():
        raise ValueError(f"{folder}: images.txt, image_class_labels.txt and classes.txt disagree")
    order = {key: place for place, key in enumerate(sorted(names, key=_number))}
    ids = sorted(files, key=_number)
    return LabelledImages(
        [_inside(folder / "images", files[i]) for i in ids],
        np.array([order[labels[i]] for i in ids], np.int64),
        tuple(names[key] for key in order),
        train_classes=math.ceil(len(order) / 2),
    )


def cars196(folder: str | Path) -> LabelledImages:
    """Read CARS-196, with its first 98 classes for training.

    Args:
        folder: Folder with ``cars_annos.mat`` and the pictures it names (``car_ims``).

    Raises:
        ValueError: The list is damaged.

    Reference:
        Krause, Stark, Deng & Fei-Fei, 2013; split as Song et al., CVPR 2016.
    """
    from scipy.io import loadmat  # type: ignore[import-untyped]  # slow to import

    folder = Path(folder)
    path = folder / "cars_annos.mat"
    if path.stat().st_size > _LARGEST_MAT:
        raise ValueError(f"{path} must have {_LARGEST_MAT} bytes at most")
    try:
        content = loadmat(path, squeeze_me=True, variable_names=("annotations", "class_names"))
        rows = np.atleast_1d(content["annotations"])
        classes = tuple(str(name) for name in np.atleast_1d(content["class_names"]))
        labels = np.array([int(row["class"]) - 1 for row in rows], np.int64)
        files = [str(row["relative_im_path"]) for row in rows]
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise ValueError(f"{path} is not the list of CARS-196: {error!r}") from error
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(f"{path}: classes must be in 1..{len(classes)}")
    paths = [_inside(folder, file) for file in files]
    return LabelledImages(paths, labels, classes, train_classes=math.ceil(len(classes) / 2))


def online_products(folder: str | Path) -> LabelledImages:
    """Read Stanford Online Products, with 11,318 classes for training and 11,316 for testing.

    Args:
        folder: Folder ``Stanford_Online_Products``, with ``Ebay_train.txt`` and ``Ebay_test.txt``.

    Raises:
        ValueError: A list is damaged, or a class is in both lists.

    Reference:
        Song, Xiang, Jegelka & Savarese, CVPR 2016.
    """
    folder = Path(folder)
    order: dict[str, int] = {}
    paths: list[Path] = []
    labels: list[int] = []
    counts = []
    for part in ("Ebay_train.txt", "Ebay_test.txt"):
        known = len(order)
        for _, label, _, file in _rows(folder / part, 4)[1:]:
            if order.setdefault(label, len(order)) < known:
                raise ValueError(f"{folder / part}: class {label} is in the other list, too")
            labels.append(order[label])
            paths.append(_inside(folder, file))
        counts.append(len(order))
    return LabelledImages(paths, np.array(labels, np.int64), tuple(order), train_classes=counts[0])


def mnist(folder: str | Path) -> LabelledImages:
    """Read MNIST or a dataset in its format: all digits, the training part first.

    Args:
        folder: Folder with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and optionally
            the same for ``t10k-``; names may end in ``.gz`` and have a dot before ``idx``.

    Raises:
        ValueError: A file is damaged, or pictures and labels do not fit each other.

    Reference:
        LeCun, Cortes & Burges, The MNIST database of handwritten digits.
    """
    pictures, labels = [], []
    for part in ("train", "t10k"):
        files = [_idx_file(Path(folder), part, kind) for kind in ("images", "labels")]
        if files[0] is None or files[1] is None:
            continue
        images, classes = read_idx(files[0]), read_idx(files[1])
        if images.ndim != 3 or classes.shape != images.shape[:1]:
            raise ValueError(
                f"{files[0]} and {files[1].name} must be [N, H, W] and [N], "
                f"got {images.shape} and {classes.shape}"
            )
        pictures.append(images)
        labels.append(classes.astype(np.int64))
    if not pictures:
        raise ValueError(f"{folder} must have train-images-idx3-ubyte and train-labels-idx1-ubyte")
    numbers = np.concatenate(labels)
    names = tuple(str(i) for i in range(int(numbers.max(initial=-1)) + 1))
    return LabelledImages(np.concatenate(pictures), numbers, names)


def read_idx(path: str | Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, the format of MNIST, plain or gzipped.

    Args:
        path: File with the magic number ``00 00 08 n``, n sizes of 32 bits, big-endian, and the
            bytes.

    Returns:
        An array of n dimensions.

    Raises:
        ValueError: The file has another format, is too short or too long, or is larger than 4 GB.
        FileNotFoundError: The file does not exist.
    """
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
                raise ValueError(f"{path} must begin with 00 00 08 and 1 to 4, got {magic.hex()}")
            sizes = file.read(4 * magic[3])
            shape = np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4").tolist()
            size = math.prod(shape)
            if len(shape) < magic[3] or size > _LARGEST_IDX:
                raise ValueError(f"{path} must hold up to {_LARGEST_IDX} bytes, says {shape}")
            content = file.read(size + 1)  # one more byte shows that the file is too long
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error
    if len(content) != size:
        length = "more" if len(content) > size else len(content)
        raise ValueError(f"{path} must hold {size} bytes for {shape}, got {length}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def digits() -> LabelledImages:
    """Return scikit-learn's handwritten digits, 1797 pictures of 8 x 8.

    Raises:
        ImportError: scikit-learn is missing.
    """
    dataset = scikit_learn("datasets").load_digits()
    pictures = (dataset.images * (255 / 16)).round().astype(np.uint8)
    names = tuple(str(i) for i in range(10))
    return LabelledImages(pictures, dataset.target.astype(np.int64), names)


def _idx_file(folder: Path, part: str, kind: str) -> Path | None:
    for middle in ("-", "."):
        for end in ("", ".gz"):
            name = f"{part}-{kind}{middle}idx{3 if kind == 'images' else 1}-ubyte{end}"
            if (folder / name).is_file():
                return folder / name
    return None


def _rows(path: Path, columns: int) -> list[list[str]]:
    """Return the words of each line; the last column may contain blanks."""
    if path.stat().st_size > _LONGEST_LIST:
        raise ValueError(f"{path} must be a list of at most {_LONGEST_LIST} bytes")
    rows = [line.split(maxsplit=columns - 1) for line in path.read_text().splitlines() if line]
    for number, row in enumerate(rows, 1):
        if len(row) != columns:
            raise ValueError(f"{path}, line {number}: must have {columns} words, got {len(row)}")
    return rows


def _number(word: str) -> int:
    if not word.isascii() or not word.isdigit():
        raise ValueError(f"an item must have a whole number, got {word!r}")
    return int(word)


def _inside(folder: Path, name: str) -> Path:
    """Return a path below a folder; a list may not name files elsewhere."""
    path = folder / name.strip()
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{name!r} must be below {folder}")
    return path
