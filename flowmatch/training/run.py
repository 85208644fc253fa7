"""Identity of a training run: what must not change between a checkpoint and its continuation."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._files import short_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Facts that checkpoints of earlier versions lack; they are then not compared.
_LATER = ("precision", "data_digest")


@dataclass(frozen=True)
class Run:
    """Recipe and facts that must be the same when a run is resumed.

    Attributes:
        recipe: Training recipe. A field that a checkpoint lacks is newer than the checkpoint and is
            taken to have had its default.
        facts: Further facts by name, such as the `data_digest` of the training data.

    Example:
        >>> from flowmatch.training import Schedule
        >>> run = Run(Schedule(steps=10, batch=2), {"seed": 1})
        >>> run.differences({"steps": 20, "batch": 2, "seed": 1})
        ['steps is 20 there and 10 here']
    """

    recipe: "DataclassInstance | None" = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return the run as a dictionary for a checkpoint."""
        return {**(asdict(self.recipe) if self.recipe else {}), **self.facts}

    def differences(self, record: Any) -> list[str]:
        """Return a sentence for each difference from the `record` of a checkpoint."""
        kept = record if isinstance(record, dict) else {}
        own = self.record()
        kept = {name: own[name] for name in _LATER if name in own} | kept
        theirs = dict(_flat(_completed(kept, self.recipe) if self.recipe else kept))
        own = dict(_flat(own))
        return [
            short_line(
                f"{name} is {theirs.get(name, _ABSENT)!r} there and {own.get(name, _ABSENT)!r} here"
            )
            for name in sorted(theirs.keys() | own.keys())
            if theirs.get(name, _ABSENT) != own.get(name, _ABSENT)
        ]


def data_digest(items: Iterable[Path | NDArray[Any]]) -> str:
    """Return the number of items of training data and a hash of them.

    Args:
        items: Files, identified by name and size because folders move; or arrays.

    Example:
        >>> data_digest([np.zeros(3)])
        '1 (9d908ecf)'
    """
    digest, count = hashlib.sha256(), 0
    for item in items:
        count += 1
        if isinstance(item, Path):
            size = item.stat().st_size if item.exists() else None
            digest.update(f"{item.name} {size}\n".encode(errors="surrogateescape"))
        else:
            digest.update(np.ascontiguousarray(item).data)
    return f"{count} ({digest.hexdigest()[:8]})"


class _Absent:
    def __repr__(self) -> str:
        return "not set"


_ABSENT = _Absent()


def _completed(record: dict[str, Any], recipe: "DataclassInstance") -> dict[str, Any]:
    """Add the fields of a recipe that a record lacks, with their defaults."""
    whole = dict(record)
    for item in fields(recipe):
        value = getattr(recipe, item.name)
        if item.name not in record:
            if item.default is not MISSING:
                whole[item.name] = item.default
            elif item.default_factory is not MISSING:
                whole[item.name] = item.default_factory()
        elif is_dataclass(value) and isinstance(record[item.name], dict):
            whole[item.name] = _completed(record[item.name], value)  # type: ignore[arg-type]
    return whole


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value with its dotted path; tuples become lists, as in a saved record."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", _plain(value)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
