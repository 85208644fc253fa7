"""Networks that track boxes."""

from collections.abc import Callable, Mapping

from flowmatch.tracking.networks.box_regression import BoxRegression

__all__ = ["MODELS", "BoxRegression"]

MODELS: Mapping[str, Callable[..., BoxRegression]] = {"box-regression": BoxRegression}
"""Constructors of tracking networks by name."""
