"""Files of the runs of a comparison, which say what conditions they belong to."""

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from flowmatch.io._files import replace_when_done
from flowmatch.metric_learning.configurations import Configuration, configurations
from flowmatch.metric_learning.data.images import LabelledImages


class RunFiles:
    """JSON files of runs in a folder.

    Args:
        folder: The folder; it is made with the first file.
        conditions: What all runs share, by name.
        train: Pictures of the training classes, which are conditions, too.
        test: Pictures of the test classes.
    """

    def __init__(
        self, folder: Path, conditions: dict[str, Any], train: LabelledImages, test: LabelledImages
    ) -> None:
        self.folder = folder
        self.conditions = {**conditions, "train": _fingerprint(train), "test": _fingerprint(test)}

    def read(self, name: str, kind: str, number: int) -> dict[str, Any] | None:
        """Read the result of a run; None if there is none.

        Args:
            name: Name of the method.
            kind: ``"search"`` or ``"seed"``.
            number: Number of the configuration, or the seed.

        Raises:
            ValueError: The file is damaged, or belongs to other conditions.
        """
        path = self._path(name, kind, number)
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text())
            conditions, result = content["conditions"], content["result"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is not the result of a run: {error}") from None
        if conditions != self.conditions:
            different = [k for k, v in self.conditions.items() if conditions.get(k) != v]
            raise ValueError(f"{path} belongs to another run, with other {', '.join(different)}")
        return dict(result)

    def write(self, name: str, kind: str, number: int, result: dict[str, Any]) -> None:
        """Write the result of a run.

        Args:
            name: Name of the method.
            kind: ``"search"`` or ``"seed"``.
            number: Number of the configuration, or the seed.
            result: Content of the file.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with replace_when_done(self._path(name, kind, number)) as path:
            path.write_text(json.dumps({"conditions": self.conditions, "result": result}))

    def chosen(self, name: str) -> Configuration | None:
        """Return the configuration with the highest MAP@R on the validation classes.

        Args:
            name: Name of the method.

        Returns:
            The configuration; None if none could be trained.
        """
        candidates = [self.read(name, "search", n) for n in range(len(configurations(name)))]
        values = [r["validation"] if r and "validation" in r else -1.0 for r in candidates]
        best = int(np.argmax(values))
        return configurations(name)[best] if values[best] >= 0 else None

    def _path(self, name: str, kind: str, number: int) -> Path:
        return self.folder / f"{name}-{kind}-{number}.json"


def _fingerprint(images: LabelledImages) -> str:
    """Return the number of pictures and classes, and a checksum of what the pictures are."""
    pictures = images.pictures
    content = (
        np.ascontiguousarray(pictures).tobytes()
        if isinstance(pictures, np.ndarray)
        else "\n".join(path.name for path in pictures).encode(errors="surrogateescape")
    )
    checksum = crc32(images.labels.tobytes(), crc32(content))
    return f"{len(images)} pictures of {len(images.classes)} classes, {checksum:08x}"
