"""Names of a package that are imported when they are first used."""

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any


def import_when_used(
    package: str, names: Collection[str], defined_in: Mapping[str, Collection[str]]
) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package.

    Args:
        package: Name of the package.
        names: The names; those that are not in `defined_in` are modules of the package.
        defined_in: Names by the module that defines them.

    Example:
        >>> import_when_used("flowmatch", ["geometry"], {})("geometry").__name__
        'flowmatch.geometry'
    """
    module_of = {name: module for module, defined in defined_in.items() for name in defined}

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if name in module_of:
            return getattr(import_module(f"{package}.{module_of[name]}"), name)
        return import_module(f"{package}.{name}")

    return get
