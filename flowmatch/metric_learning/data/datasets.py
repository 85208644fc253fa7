"""Readers of labelled images: folders of classes and standard datasets."""

import math
from pathlib import Path

import numpy as np

from flowmatch.io._files import reason_of
from flowmatch.io.image import READ_SUFFIXES, warn_of_other_kinds
from flowmatch.metric_learning._extras import scikit_learn
from flowmatch.metric_learning.data.idx import idx_datasets, mnist
from flowmatch.metric_learning.data.images import LabelledImages

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")
_LONGEST_LIST = 2**27  # bytes of a text file
_LARGEST_MAT = 2**24  # bytes; CARS-196 has half a million, and the content is compressed


def find_images(data: str | Path) -> LabelledImages:
    """Read a dataset, whose format is detected.

    Args:
        data: ``"digits"`` for scikit-learn's digits, or a folder: CUB-200-2011, CARS-196, Stanford
            Online Products, MNIST or EMNIST as unpacked, else one sub-folder of pictures for each
            class, maybe below ``train`` and ``test``. If a folder has the files of several datasets
            like ``emnist-letters-train-images-idx3-ubyte``, ``folder/emnist-letters`` is one.

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
        if folder.name in idx_datasets(folder.parent):
            return mnist(folder.parent, folder.name)
        raise FileNotFoundError(f"there is no folder {folder} (and it is not digits)")
    for mark, reader in (
        ("image_class_labels.txt", cub200),
        ("cars_annos.mat", cars196),
        ("Ebay_train.txt", online_products),
    ):
        if (folder / mark).is_file():
            return reader(folder)
    return mnist(folder) if idx_datasets(folder) else folder_of_classes(folder)


def folder_of_classes(folder: str | Path) -> LabelledImages:
    """Read a folder with one sub-folder of pictures for each class, in alphabetical order.

    Args:
        folder: The folder; sub-folders without pictures are ignored. If its only sub-folders are
            ``train`` (or ``training``) and ``test`` (or ``testing``, ``val``, ``valid``,
            ``validation``), which have sub-folders of classes, this is the split of the dataset: of
            classes if the parts have no class in common, else of pictures.

    Raises:
        ValueError: There are fewer than two classes.
    """
    parts = _parts(Path(folder))
    if parts is not None:
        train, test = ([item for sub in part for item in _class_folders(sub)] for part in parts)
    else:
        train, test = _class_folders(Path(folder)), []
    trained = sorted({sub.name for sub, _ in train})
    others = sorted({sub.name for sub, _ in test} - set(trained))
    classes = (*trained, *others)
    if len(classes) < 2:
        raise ValueError(
            f"{folder} must have a sub-folder of pictures for each of two classes or more, "
            f"got {len(classes)}"
        )
    index = {name: place for place, name in enumerate(classes)}
    labels = [index[sub.name] for sub, pictures in (*train, *test) for _ in pictures]
    count = sum(len(pictures) for _, pictures in train)
    by_classes = bool(test) and all(sub.name in others for sub, _ in test)
    return LabelledImages(
        [path for _, pictures in (*train, *test) for path in pictures],
        np.array(labels, np.int64),
        classes,
        train_classes=len(trained) if by_classes else None,
        train_pictures=np.arange(len(labels)) < count if test and not by_classes else None,
    )


def _class_folders(folder: Path) -> list[tuple[Path, list[Path]]]:
    """Return the sub-folders that have pictures, and their pictures."""
    folders = []
    for sub in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        files = sorted(p for p in sub.rglob("*") if not _is_hidden(p.relative_to(sub)))
        warn_of_other_kinds(sub, files)
        pictures = [p for p in files if p.suffix.lower() in READ_SUFFIXES and not p.is_dir()]
        if pictures:
            folders.append((sub, pictures))
    return folders


def _is_hidden(path: Path) -> bool:
    """Return whether a file, or a folder that it is in, is hidden, as macOS's ``._a.jpg`` are."""
    return any(part.startswith(".") for part in path.parts)


def _parts(folder: Path) -> tuple[list[Path], list[Path]] | None:
    """Return the sub-folders for training and for testing; None if the sub-folders are classes."""
    subs = [sub for sub, _ in _class_folders(folder)]
    train = [sub for sub in subs if sub.name.lower() in _TRAIN]
    test = [sub for sub in subs if sub.name.lower() in _TEST]
    if not train or not test or len(train) + len(test) < len(subs):
        return None
    pictures = (p for sub in subs for p in sub.iterdir() if p.suffix.lower() in READ_SUFFIXES)
    return (
        None
        if any(p.is_file() and not _is_hidden(Path(p.name)) for p in pictures)
        else (train, test)
    )


def cub200(folder: str | Path) -> LabelledImages:
    """Read Caltech-UCSD Birds 200-2011, with its first 100 classes for training.

    Args:
        folder: Folder ``CUB_200_2011``, with ``images.txt``, ``image_class_labels.txt``,
            ``classes.txt``, and optionally ``train_test_split.txt``, the split of pictures.

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
    train = None
    if (folder / "train_test_split.txt").is_file():
        marks = dict(_rows(folder / "train_test_split.txt", 2))
        if marks.keys() != files.keys() or not set(marks.values()) <= {"0", "1"}:
            raise ValueError(f"{folder}: images.txt and train_test_split.txt disagree")
        train = np.array([marks[i] == "1" for i in ids])
    return LabelledImages(
        [_inside(folder / "images", files[i]) for i in ids],
        np.array([order[labels[i]] for i in ids], np.int64),
        tuple(names[key] for key in order),
        train_classes=math.ceil(len(order) / 2),
        train_pictures=train,
    )


def cars196(folder: str | Path) -> LabelledImages:
    """Read CARS-196, with its first 98 classes for training.

    Args:
        folder: Folder with ``cars_annos.mat`` and the pictures it names (``car_ims``). A field
            ``test`` of its list is the split of pictures.

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
        has_test = "test" in (rows.dtype.names or ())
        train = np.array([int(row["test"]) == 0 for row in rows]) if has_test else None
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise ValueError(f"{path} is not the list of CARS-196: {reason_of(error)}") from error
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(f"{path}: classes must be in 1..{len(classes)}")
    paths = [_inside(folder, file) for file in files]
    half = math.ceil(len(classes) / 2)
    return LabelledImages(paths, labels, classes, train_classes=half, train_pictures=train)


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


def digits() -> LabelledImages:
    """Return scikit-learn's handwritten digits, 1797 pictures of 8 x 8.

    Raises:
        ImportError: scikit-learn is missing.
    """
    dataset = scikit_learn("datasets").load_digits()
    pictures = (dataset.images * (255 / 16)).round().astype(np.uint8)
    names = tuple(str(i) for i in range(10))
    return LabelledImages(pictures, dataset.target.astype(np.int64), names)


def _rows(path: Path, columns: int) -> list[list[str]]:
    """Return the words of each line; the last column may contain blanks."""
    if path.stat().st_size > _LONGEST_LIST:
        raise ValueError(f"{path} must be a list of at most {_LONGEST_LIST} bytes")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {reason_of(error)}") from error
    rows = [line.split(maxsplit=columns - 1) for line in lines if line]
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
