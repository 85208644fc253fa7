"""What only some of this package needs, imported when it is used."""

import importlib
from typing import Any


def metric_learning(module: str) -> Any:
    """Import a module of pytorch-metric-learning, ``"losses"`` for example.

    Raises:
        ImportError: It is not installed; says how to get it.
    """
    return _load(f"pytorch_metric_learning.{module}", "pytorch-metric-learning")


def scikit_learn(module: str) -> Any:
    """Import a module of scikit-learn, ``"cluster"`` for example.

    Raises:
        ImportError: It is not installed; says how to get it.
    """
    return _load(f"sklearn.{module}", "scikit-learn")


def _load(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Only the package itself may be missing: anything else is a defect of its installation.
        if error.name is None or not module.startswith(error.name):
            raise
        raise ImportError(
            f"this needs {package}, which is not installed: pip install 'flowmatch[train]'"
        ) from error
