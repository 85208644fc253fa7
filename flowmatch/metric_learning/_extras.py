"""Optional dependencies, imported on first use."""

import importlib
from typing import Any


def metric_learning(module: str) -> Any:
    """Import a module of pytorch-metric-learning, ``"losses"`` for example.

    Raises:
        ImportError: The package is not installed; the message says how to install it.
    """
    return _load(f"pytorch_metric_learning.{module}", "pytorch-metric-learning")


def scikit_learn(module: str) -> Any:
    """Import a module of scikit-learn, ``"cluster"`` for example.

    Raises:
        ImportError: The package is not installed; the message says how to install it.
    """
    return _load(f"sklearn.{module}", "scikit-learn")


def _load(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Only the package itself may be missing: a missing dependency is an installation error.
        if error.name is None or not module.startswith(error.name):
            raise
        raise ImportError(
            f"this needs {package}, which is not installed: pip install 'flowmatch[train]'"
        ) from error
