"""Sphinx extension: the pages of the API reference, from what each package exports.

A page has a section for each group of a module's ``__all__`` (functions, classes, networks), with
the functions that most users need first.
"""

import inspect
import re
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.util.typing import stringify_annotation
from torch import nn

from flowmatch.zoo import WeightStore

# Page: title and modules. Tasks first, then what they are built on.
PAGES = {
    "flow": ("Optical flow", ["flow", "flow.synthetic"]),
    "matching": (
        "Matching",
        [
            "matching",
            "matching.files",
            "matching.pair_list",
            "matching.pair_generators",
            "matching.colmap",
            "matching.learned.detectors",
            "matching.learned.matchers",
        ],
    ),
    "registration": ("Registration", ["registration"]),
    "align": ("Alignment", ["align", "align.transforms"]),
    "tracking": ("Tracking", ["tracking", "tracking.files", "tracking.draw"]),
    "stitch": ("Panoramas", ["stitch"]),
    "retrieval": ("Image search", ["retrieval"]),
    "localisation": ("Localisation", ["localisation"]),
    "metric_learning": (
        "Metric learning",
        ["metric_learning", "metric_learning.losses", "metric_learning.miners"],
    ),
    "selfsupervised": ("Learning from video", ["selfsupervised"]),
    "batch": ("Many clips", ["batch"]),
    "export": ("Export and the Hub", ["export", "hub"]),
    "ops": ("Operators", ["ops"]),
    "compat": ("Compatibility", ["compat"]),
    "bench": ("Benchmark", ["bench"]),
    "io": ("Files", ["io"]),
    "draw": ("Pictures", ["draw"]),
    "training": ("Training", ["training"]),
    "geometry": ("Geometry and metrics", ["geometry", "metrics", "descriptor_losses"]),
    "zoo": ("Weights and devices", ["zoo", "devices", "imaging", "progress"]),
}
# What most users need comes first in its group.
FIRST = (
    "estimate_flow", "estimate_both_ways", "write_sequence", "FlowOptions", "SequenceOptions",
    "match_images", "MatchOptions", "Matches", "register_scans", "register_many",
    "RegisterOptions", "Registration", "stitch_photos", "StitchOptions", "Panorama",
    "build_index", "search", "correlation", "Correlation", "correlation_lookup",
    "correlation_pyramid", "nearest", "read_image", "write_image", "read_flow", "write_flow",
    "flow_to_image", "draw_matches", "make_loss",
)  # fmt: skip
# What autodoc makes of ArrayLike and NDArray; in a union with str, str is named once.
SHORT_TYPES = {
    re.escape(stringify_annotation(ArrayLike, "smart")).replace(
        r"\ str\ \|", r"(?: str \|)?"
    ): "ArrayLike",
    r"~?numpy\.ndarray\[tuple\[~?(?:typing\.)?Any, \.{3}\], ~?numpy\.dtype\[~?\w+\.(\w+)\]\]": (
        r"NDArray[\1]"
    ),
}
STORE = """
``load``, ``available`` and ``save_weights`` are the methods of
:class:`flowmatch.zoo.WeightStore` for this task.
"""


def write_pages(app: Sphinx) -> None:
    """Write the pages into the source folder, where Git ignores them."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    done: set[int] = set()
    for name, (title, modules) in PAGES.items():
        text = f"{title}\n{'=' * len(title)}\n"
        text += "".join(_module(f"flowmatch.{module}", done) for module in modules)
        page = Path(app.srcdir) / "api" / f"{name}.rst"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def _module(name: str, done: set[int]) -> str:
    module = import_module(name)
    groups: dict[str, list[str]] = {"Functions": [], "Classes": [], "Networks": []}
    names = getattr(module, "__all__", None) or _defined_in(module)
    stored = False
    for member in sorted(names, key=_position):
        value = getattr(module, member)
        bound = inspect.ismethod(value) and isinstance(value.__self__, WeightStore)
        stored = stored or (bound and member == "load")
        if bound or id(value) in done or inspect.ismodule(value):
            continue
        if inspect.isclass(value) and value.__module__.startswith("flowmatch"):
            is_network = issubclass(value, nn.Module) and ".networks" in value.__module__
            groups["Networks" if is_network else "Classes"].append(member)
        elif inspect.isroutine(value):
            groups["Functions"].append(member)
        else:
            continue
        done.add(id(value))
    text = f"\n.. automodule:: {name}\n   :no-members:\n" + (STORE if stored else "")
    for title, members in groups.items():
        if members:
            heading = f"{title} of {name}"
            text += f"\n{heading}\n{'-' * len(heading)}\n"
        kind = "autofunction" if title == "Functions" else "autoclass"
        text += "".join(f"\n.. {kind}:: {name}.{member}\n" for member in members)
    return text


def _defined_in(module: Any) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    ]


def _position(name: str) -> tuple[int, str]:
    return FIRST.index(name) if name in FIRST else len(FIRST), name.lower()


def skip(
    app: Sphinx, what: str, name: str, member: Any, skipped: bool, options: Any
) -> bool | None:
    """Leave out the fields of a class: the ``Attributes:`` of its docstring describe them."""
    is_field = type(member).__name__ in ("_tuplegetter", "member_descriptor")
    is_constant = what == "class" and not callable(member) and not isinstance(member, property)
    return True if is_field or is_constant else None


def describe_returns(
    app: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]
) -> None:
    """Keep napoleon from taking the words before a colon for the type of the result."""
    for i, line in enumerate(lines[:-1]):
        if line.strip() in ("Returns:", "Yields:"):
            parts = re.split(r"(``.*?``|`.*?`)", lines[i + 1])
            parts[::2] = [part.replace(": ", " – ") for part in parts[::2]]
            lines[i + 1] = re.sub(r":$", " –", "".join(parts))


def name_default_options(
    app: Sphinx, what: str, name: str, item: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Write the default options of a function as a call of their class."""
    if "_DEFAULTS" not in (signature or ""):
        return None
    function = item.__init__ if inspect.isclass(item) else item
    values = (*(function.__kwdefaults__ or {}).values(), *(function.__defaults__ or ()))
    default = next(value for value in values if is_dataclass(value))
    return signature.replace("_DEFAULTS", f"{type(default).__name__}()"), returns


def shorten_types(app: Sphinx, domain: str, objtype: str, content: Any) -> None:
    """Write NumPy's types by the names of ``numpy.typing``, which autodoc expands."""
    for types in app.env.current_document.autodoc_annotations.values():
        for name, text in types.items():
            for pattern, short in SHORT_TYPES.items():
                text = re.sub(pattern, short, text)
            types[name] = text


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for its sources."""
    app.connect("autodoc-process-docstring", describe_returns, priority=400)
    app.connect("autodoc-process-signature", name_default_options)
    app.connect("object-description-transform", shorten_types, priority=400)
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
