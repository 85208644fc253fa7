"""Readers of the files of tasks."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flowmatch import io

# Modules that import PyTorch are imported when they are needed: they take seconds.


def read_matches(path: Path) -> Any:
    """Read matches."""
    from flowmatch.matching.files import read_matches

    return read_matches(path)


def compare_matches(path: Path, matches: Any) -> str | None:
    """Compare matches with the arrays that NumPy reads."""
    with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as arrays:
        same = np.array_equal(arrays["matches"], matches.matches)
        same = same and np.array_equal(arrays["xy1"], matches.keypoints1.xy, equal_nan=True)
    return None if same else "other matches than NumPy's"


def read_list(path: Path) -> Any:
    """Read a list, the ground truth of a benchmark, labels or a report, by its name."""
    from flowmatch.cli.bench import _read as read_report
    from flowmatch.hub import _read_config
    from flowmatch.matching.data.brown import _table
    from flowmatch.matching.pair_list import read_pairs
    from flowmatch.metric_learning.data.idx import read_idx
    from flowmatch.retrieval.evaluation.metrics import read_protocol

    def names_of_files(path: Path) -> list[str]:
        return [pair.file() for pair in read_pairs(path)]

    readers: dict[str, Callable[[Path], Any]] = {
        "pairs.txt": names_of_files, "gnd.json": read_protocol, "images.txt": _read_birds,
        "Ebay_train.txt": _read_products, "verif_pos_split-a.csv": _read_tasks,
        "info.txt": lambda path: _table(path, 2), "train-images-idx3-ubyte": read_idx,
        "train-labels.gz": read_idx, "report.json": read_report, "config.json": _read_config,
    }  # fmt: skip
    return readers[path.name](path)


def _read_birds(path: Path) -> Any:
    from flowmatch.metric_learning.data.datasets import cub200

    (path.parent / "image_class_labels.txt").write_text("1 1\n2 1\n")
    (path.parent / "classes.txt").write_text("1 a\n")
    return cub200(path.parent)


def _read_products(path: Path) -> Any:
    from flowmatch.metric_learning.data.datasets import online_products

    (path.parent / "Ebay_test.txt").write_text("image_id class_id super path\n9 99 1 z.jpg\n")
    return online_products(path.parent)


def _read_tasks(path: Path) -> Any:
    from flowmatch.matching.data.hpatches import _FILES, PatchSequence, read_tasks

    for task, name in _FILES.items():
        row = "v_a,0" if task in ("queries", "distractors") else "v_a,0,0,v_a,1,0"
        other = path.parent / f"{name}_split-a.csv"
        if other != path:
            other.write_text(f"header\n{row}\n")
    return read_tasks(path.parent, "a", [PatchSequence("v_a", path.parent, 3)])


def read_lua(path: Path) -> Any:
    """Read a network of Torch7, or layers of cvpr15deepcompare."""
    from flowmatch.matching.external import _read_bin
    from flowmatch.matching.torch7 import parse_t7

    if path.suffix == ".bin":
        return _read_bin(path)
    try:
        return parse_t7(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error  # as its caller does


def read_photo_metadata(path: Path) -> Any:
    """Read what a camera wrote into a photo; a picture made of it must hold the same."""
    metadata = io.read_metadata(path)
    copy = path.with_name("copy.jpg")
    io.write_image(copy, np.zeros((2, 2), np.uint8), metadata=metadata)
    again = io.read_metadata(copy)
    if again._replace(focal_35mm=None) != metadata._replace(focal_35mm=None):
        raise AssertionError("metadata change when they are written")
    return metadata


def compare_photo_metadata(path: Path, metadata: Any) -> str | None:
    """Compare with Pillow's colour profile."""
    from PIL import Image

    with Image.open(path) as picture:
        # Of parts that are counted wrong, each reader leaves out others.
        icc = picture.info.get("icc_profile")
        if None not in (icc, metadata.icc) and icc != metadata.icc:
            return "a colour profile unlike Pillow's"
    return None


def read_mesh(path: Path) -> Any:
    """Sample points of a mesh, and move it by nothing."""
    points = io.read_cloud(path)
    io.move_cloud_file(path, path.with_name(f"moved{path.suffix}"), np.eye(4))
    return points


def read_track(path: Path) -> Any:
    """Read points or boxes of a video."""
    from flowmatch.tracking.files import read_mot, read_points

    return read_points(path) if path.name == "points.txt" else read_mot(path)


def read_saved(path: Path) -> Any:
    """Read a file of `torch.save`."""
    from flowmatch.tensor_files import read_saved

    return read_saved(path)


def read_video(path: Path) -> Any:
    """Read all frames of a video."""
    from flowmatch.io import read_frames

    return list(read_frames(path))


def compare_video(path: Path, frames: list[np.ndarray]) -> str | None:
    """Compare the size of the first frame with that of PyAV's."""
    import av

    with av.open(str(path)) as container:
        other = next(container.decode(video=0)).to_ndarray(format="rgb24")
    sizes = sorted(frames[0].shape), sorted(other.shape)
    return None if sizes[0] == sizes[1] else "a size unlike PyAV's"
