"""Kornia, which training and synthetic pairs need, imported on first use."""

import importlib
from typing import Any


def kornia(module: str) -> Any:
    """Import a module of kornia, ``"enhance"`` for example.

    Raises:
        ImportError: Kornia is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(f"kornia.{module}")
    except ModuleNotFoundError as error:
        # Only the package itself may be missing: a missing dependency is an installation error.
        if error.name not in ("kornia", f"kornia.{module}"):
            raise
        raise ImportError(
            "training of flow and its synthetic pairs need kornia, which is not installed: "
            "pip install 'flowmatch[train]'"
        ) from error
