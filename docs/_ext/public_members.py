"""Sphinx extension: leave out of the API reference what it would say twice.

Fields of named tuples and dataclasses are described by the ``Attributes:`` of their class, and
``load``, ``available`` and ``save_weights`` of a task by `flowmatch.zoo.WeightStore`. Aliases of
classes of other packages have pages there.
"""

import inspect
from typing import Any

from sphinx.application import Sphinx

from flowmatch.zoo import WeightStore


def skip(app: Sphinx, what: str, name: str, member: Any, skipped: bool, options: Any) -> bool | None:
    """Return True for members to leave out, None to leave the decision to autodoc."""
    is_field = type(member).__name__ in ("_tuplegetter", "member_descriptor")
    is_constant = what == "class" and not callable(member) and not isinstance(member, property)
    is_store = inspect.ismethod(member) and isinstance(member.__self__, WeightStore)
    is_foreign = inspect.isclass(member) and not member.__module__.startswith("flowmatch")
    return True if is_field or is_constant or is_store or is_foreign else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the filter."""
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
