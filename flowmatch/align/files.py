"""Files of alignments: JSON and NumPy archives to use again, lists of points for other tools."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from flowmatch.align.estimate import Alignment
from flowmatch.align.transforms import AFFINE, THIN_PLATE, pixel_grid
from flowmatch.io import replace_when_done
from flowmatch.io._files import FilePath, entry_for_suffix, existing_file

_MAX_BYTES = 1 << 20
_SIDE = 20
"""Number of points of a list along each side of the first image."""


def write_alignment(path: FilePath, alignment: Alignment) -> None:
    """Write an alignment, in the format of the suffix.

    ``.json`` holds everything; `read_alignment` reads it. ``.npz`` holds `map`, for each pixel of
    the first image its place in the second, ``[H, W, 2]`` float32, as ``cv2.remap`` takes it.
    ``.csv`` holds the places of 20 x 20 pixels, x1, y1, x2, y2, as control points for other tools.

    Args:
        path: File to write.
        alignment: Alignment of two images.

    Raises:
        ValueError: The suffix is another one.
        FileNotFoundError: The folder of the file does not exist.

    Example:
        >>> import tempfile
        >>> from flowmatch.align import align_images
        >>> image = np.zeros((40, 60, 3), np.uint8)
        >>> path = Path(tempfile.mkdtemp()) / "identity.json"
        >>> write_alignment(path, align_images(image, image, model="identity"))
        >>> read_alignment(path).points([(10, 20)]).tolist()
        [[10.0, 20.0]]
    """
    path = Path(path)
    write = entry_for_suffix(path, _WRITERS, "file of an alignment")
    with replace_when_done(path) as temporary:
        write(temporary, alignment)


def read_alignment(path: FilePath) -> Alignment:
    """Read an alignment from a ``.json`` file of `write_alignment`.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It holds no alignment.
    """
    path = existing_file(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        stages = tuple(torch.tensor([stage], dtype=torch.float32) for stage in content["stages"])
        sizes = [tuple(map(int, content[key])) for key in ("first_size", "second_size")]
        if (
            not 1 <= len(stages) <= 2
            or any(stage.shape[1:] not in ((AFFINE,), (THIN_PLATE,)) for stage in stages)
            or not all(bool(stage.isfinite().all()) for stage in stages)
            or any(len(size) != 2 or min(size) < 1 for size in sizes)
        ):
            raise ValueError("other sizes or parameters")
        first, second = ((size[0], size[1]) for size in sizes)
        return Alignment(
            stages, str(content["method"]), bool(content["found"]), first, second,
            content.get("error"), content.get("inliers"),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path}: expected an alignment that flowmatch align wrote: {reason}"
        ) from error


def _write_json(path: Path, alignment: Alignment) -> None:
    content = {
        "method": alignment.method,
        "found": alignment.found,
        "error": alignment.error,
        "inliers": alignment.inliers,
        "first_size": alignment.first_size,
        "second_size": alignment.second_size,
        "stages": [stage[0].tolist() for stage in alignment.stages],
    }
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _write_npz(path: Path, alignment: Alignment) -> None:
    H, W = alignment.first_size
    y, x = np.mgrid[:H, :W]
    places = alignment.points(np.stack([x.ravel(), y.ravel()], axis=1))
    with path.open("wb") as file:
        np.savez_compressed(file, map=places.reshape(H, W, 2).astype(np.float32))


def _write_csv(path: Path, alignment: Alignment) -> None:
    H, W = alignment.first_size
    half = pixel_grid(min(_SIDE, H), min(_SIDE, W)).double().numpy()
    first = ((half + 1) * (W, H) - 1) / 2
    rows = np.hstack([first, alignment.points(first)])
    header = "x1,y1,x2,y2"
    np.savetxt(path, rows, "%.3f", ",", header=header, comments="", encoding="utf-8")


_WRITERS: dict[str, Callable[[Path, Alignment], None]] = {
    ".json": _write_json,
    ".npz": _write_npz,
    ".csv": _write_csv,
}
ALIGNMENT_SUFFIXES = tuple(_WRITERS)
