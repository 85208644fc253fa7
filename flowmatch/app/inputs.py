"""What a browser sends, checked: it may send anything, not only what the page offers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

Component = Any
"""A component of gradio, whose types are too loose for mypy."""


class Inputs(NamedTuple):
    """Components that a tab asks for.

    Attributes:
        files: Argument of the task -> component that takes one picture, or several files.
        options: Argument of the task -> component with its value.
    """

    files: Mapping[str, Component]
    options: Mapping[str, Component]


def read_inputs(inputs: Inputs, values: Sequence[Any], uploads: Path) -> dict[str, Any]:
    """Return the arguments of a task.

    Args:
        inputs: Components of the tab.
        values: What the browser sent for its files, then for its options.
        uploads: Folder below which all files of users are.

    Raises:
        ValueError: A file is missing or elsewhere, or a value is not one that the page offers.
    """
    files, options = values[: len(inputs.files)], values[len(inputs.files) :]
    arguments: dict[str, Any] = {}
    for (name, component), value in zip(inputs.files.items(), files, strict=True):
        paths = list(_paths(value))
        if not paths:
            raise ValueError(f"{component.label}: add a file first")
        for path in paths:
            if not (path.is_file() and path.resolve().is_relative_to(uploads)):
                raise ValueError(f"{path.name} is not here any more: add it again")
        arguments[name] = paths if isinstance(component, gr.File) else paths[0]
    for (name, component), value in zip(inputs.options.items(), options, strict=True):
        arguments[name] = _option(component, value)
    return arguments


def _paths(value: Any) -> Iterator[Path]:
    """Yield the files in what gradio sends for a field: a dictionary, or a list of them."""
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, dict) and isinstance(entry.get("path"), str):
            yield Path(entry["path"])


def _option(component: Component, value: Any) -> Any:
    """Return the value of an option, if it is one that the page offers.

    Raises:
        ValueError: It is not.
    """
    if isinstance(component, gr.Checkbox):
        return bool(value)
    if isinstance(component, gr.Dropdown | gr.Radio):
        values = [choice for _, choice in component.choices]
        if value not in values:
            known = ", ".join(map(str, values))
            raise ValueError(f"{component.label} must be one of {known}, got {value!r}")
        return value
    low, high = component.minimum, component.maximum
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(
            f"{component.label} must be a number from {low:g} to {high:g}, got {value!r}"
        )
    return round(value) if component.precision == 0 else value
