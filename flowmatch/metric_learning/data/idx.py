"""Reader of MNIST and of datasets in its format, IDX files."""

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._files import reason_of, require_plausible
from flowmatch.metric_learning.data.images import LabelledImages

_LARGEST = 2**32  # bytes; the largest published IDX files (QMNIST, EMNIST) have 0.5 GB
_TYPES: dict[int, np.dtype[np.integer]] = {8: np.dtype("u1"), 12: np.dtype(">i4")}
_NAME = re.compile(
    r"(?:(?P<dataset>.+)-)?(?P<part>train|t10k|test)-"
    r"(?:(?P<images>images)[-.]idx3-ubyte|labels[-.](?:idx1-ubyte|idx2-int))(?:\.gz)?"
)


def mnist(folder: str | Path, dataset: str = "") -> LabelledImages:
    """Read MNIST or a dataset in its format, such as EMNIST: all pictures, the training part first.

    Classes are the labels that pictures have; EMNIST's letters begin with 1. Pictures are kept as
    they are stored, those of EMNIST transposed.

    Args:
        folder: Folder with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and optionally
            the same for ``t10k-`` or ``test-``; names may end in ``.gz``, have a dot before
            ``idx``, and begin with the name of the dataset, such as ``emnist-letters-``.
        dataset: Name of the dataset, if the folder has several.

    Raises:
        ValueError: A file is damaged, pictures and labels do not fit each other, or the folder has
            several datasets or none.

    Reference:
        LeCun, Cortes & Burges, The MNIST database of handwritten digits. Cohen, Afshar, Tapson &
        van Schaik, EMNIST, 2017.
    """
    folder = Path(folder)
    parts = _files_of(folder, dataset)
    pictures, labels = [], []
    for test in (False, True):
        images, classes = parts.get((test, "images")), parts.get((test, "labels"))
        if images is None and classes is None:
            continue
        if images is None or classes is None:
            file = images or classes
            kind = "labels" if images else "pictures"
            raise ValueError(f"{folder} must have the {kind} of {file.name if file else ''}")
        pictures.append(read_idx(images))
        labels.append(read_idx(classes).astype(np.int64))
        if labels[-1].ndim == 2:  # the first number of a QMNIST label is the digit
            labels[-1] = labels[-1][:, 0]
        if pictures[-1].dtype != np.uint8:
            raise ValueError(f"{images} must have bytes, got integers of 32 bits")
        if pictures[-1].ndim != 3 or labels[-1].shape != pictures[-1].shape[:1]:
            raise ValueError(
                f"{images} and {classes.name} must be [N, H, W] and [N], "
                f"got {pictures[-1].shape} and {labels[-1].shape}"
            )
    sizes = {part.shape[1:] for part in pictures}
    if len(sizes) > 1:
        raise ValueError(f"{folder}: pictures must have one size, got {sorted(sizes)}")
    names, numbers = np.unique(np.concatenate(labels), return_inverse=True)
    is_train = np.arange(len(numbers)) < len(labels[0])
    return LabelledImages(
        np.concatenate(pictures),
        numbers.astype(np.int64),
        tuple(map(str, names.tolist())),
        train_pictures=is_train if all(map(len, labels)) and len(labels) == 2 else None,
    )


def idx_datasets(folder: Path) -> dict[str, dict[tuple[bool, str], Path]]:
    """Return the datasets of IDX files in a folder.

    Args:
        folder: The folder; if it does not exist it has no datasets.

    Returns:
        By the name of each dataset (``""`` without one), its files by whether they are of the test
        part, and ``"images"`` or ``"labels"``.
    """
    datasets: dict[str, dict[tuple[bool, str], Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and path.is_file():
            key = match["part"] != "train", match["images"] or "labels"
            datasets.setdefault(match["dataset"] or "", {}).setdefault(key, path)
    kinds = {name: {kind for _, kind in files} for name, files in datasets.items()}
    return {name: files for name, files in datasets.items() if "images" in kinds[name]}


def _files_of(folder: Path, dataset: str) -> dict[tuple[bool, str], Path]:
    datasets = idx_datasets(folder)
    if not dataset and "" not in datasets and len(datasets) > 1:
        names = ", ".join(str(folder / name) for name in datasets)
        raise ValueError(f"{folder} has several datasets, give one of {names}")
    if not dataset and len(datasets) == 1:
        return next(iter(datasets.values()))
    if dataset not in datasets:
        start = f"{dataset}-train" if dataset else "train"
        raise ValueError(
            f"{folder} must have {start}-images-idx3-ubyte and {start}-labels-idx1-ubyte"
        )
    return datasets[dataset]


def read_idx(path: str | Path) -> NDArray[np.integer]:
    """Read an IDX file of unsigned bytes or of integers, the format of MNIST, plain or gzipped.

    Args:
        path: File with the magic number ``00 00 08 n`` (bytes) or ``00 00 0c n`` (32 bits), n sizes
            of 32 bits, big-endian, and the numbers.

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
            known = len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in _TYPES
            if not known or not 1 <= magic[3] <= 4:
                raise ValueError(
                    f"{path} must begin with 00 00 08 or 00 00 0c and 1 to 4, got {magic.hex()}"
                )
            dtype = _TYPES[magic[2]]
            sizes = file.read(4 * magic[3])
            shape = np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4").tolist()
            size = math.prod(shape) * dtype.itemsize
            if len(shape) < magic[3] or size > _LARGEST:
                raise ValueError(f"{path} must hold up to {_LARGEST} bytes, says {shape}")
            require_plausible(path, size, path.stat().st_size)
            content = file.read(size + 1)  # one more byte shows that the file is too long
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {reason_of(error)}") from error
    if len(content) != size:
        length = "more" if len(content) > size else len(content)
        raise ValueError(f"{path} must hold {size} bytes for {shape}, got {length}")
    return np.frombuffer(content, dtype).reshape(shape)
