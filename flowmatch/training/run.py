"""What makes a run the one that a checkpoint is of."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Facts that checkpoints of earlier versions do not tell: of those, they are not asked for.
_LATER = ("precision", "learnt_from")


@dataclass(frozen=True)
class Run:
    """What must be the same when a run goes on.

    Attributes:
        recipe: How is learnt. A field that a checkpoint does not know is younger than it, and had
            its default.
        facts: What else, by name; `learnt_from` gives words for what is learnt from.

    Example:
        >>> from flowmatch.training import Schedule
        >>> run = Run(Schedule(steps=10, batch=2), {"seed": 1})
        >>> run.differences({"steps": 20, "batch": 2, "seed": 1})
        ['steps is 20 there and 10 here']
    """

    recipe: "DataclassInstance | None" = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it."""
        return {**(asdict(self.recipe) if self.recipe else {}), **self.facts}

    def differences(self, found: Any) -> list[str]:
        """Say where it is not what a checkpoint kept of its run: nothing where it is the same."""
        kept = found if isinstance(found, dict) else {}
        here = self.record()
        kept = {name: here[name] for name in _LATER if name in here} | kept
        there = dict(_flat(_completed(kept, self.recipe) if self.recipe else kept))
        here = dict(_flat(here))
        return [
            f"{name} is {there.get(name, _ABSENT)!r} there and {here.get(name, _ABSENT)!r} here"
            for name in sorted(there.keys() | here.keys())
            if there.get(name, _ABSENT) != here.get(name, _ABSENT)
        ]


def learnt_from(items: Iterable[Path | NDArray[Any]]) -> str:
    """Return a short word for what a run learns from: how much it is, and a digest.

    Args:
        items: Files, of which name and size count, because folders move; or arrays.

    Example:
        >>> learnt_from([np.zeros(3)])
        '1 (9d908ecf)'
    """
    digest, count = hashlib.sha256(), 0
    for item in items:
        count += 1
        if isinstance(item, Path):
            size = item.stat().st_size if item.exists() else None
            digest.update(f"{item.name} {size}\n".encode())
        else:
            digest.update(np.ascontiguousarray(item).data)
    return f"{count} ({digest.hexdigest()[:8]})"


class _Absent:
    def __repr__(self) -> str:
        return "not set"


_ABSENT = _Absent()


def _completed(found: dict[str, Any], recipe: "DataclassInstance") -> dict[str, Any]:
    """Add the fields of a recipe that are not `found`, with their defaults."""
    whole = dict(found)
    for one in fields(recipe):
        value = getattr(recipe, one.name)
        if one.name not in found:
            if one.default is not MISSING:
                whole[one.name] = one.default
            elif one.default_factory is not MISSING:
                whole[one.name] = one.default_factory()
        elif is_dataclass(value) and isinstance(found[one.name], dict):
            whole[one.name] = _completed(found[one.name], value)  # type: ignore[arg-type]
    return whole


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Give every value by its path, lists for tuples: both are written down for the same."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", _plain(value)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
