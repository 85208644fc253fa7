"""Sphinx extension: a card for each file of ``flowmatch/weights``, from its ``index.json``."""

import json
import re
import struct
from importlib import resources
from math import prod
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

FOLDER = "weights"
VERBS = {
    "flow": "flow = fm.estimate_flow(first, second, model={name!r})",
    "matching": "fm.match_images(first, second, model={name!r})",
    "registration": "fm.register_scans(source, target, model={name!r})",
    "align": "fm.align_images(first, second, model={name!r})",
    "tracking": "fm.track_boxes(frames, boxes, model={name!r})",
}
INTRODUCTION = """\
# Weights

These files are part of the package; nothing is downloaded. Each was trained by a recipe of this
repository, and its card names the commands, the data and the commits. `flowmatch weights list`
prints the same list, and `fm.load("task/name")` loads a network with its weights:

```python
import flowmatch as fm

network = fm.load("flow/default")
```

All files are under the BSD-3-Clause licence of the package. The training data are photographs
under free licences (CC0, CC BY, CC BY-SA, GPL, LGPL, Unsplash), drawings of the Tux Paint project
(GPL-2 or public domain) and RGB-D frames under the MIT licence; no file contains any of them.
"""


def write_cards(app: Sphinx) -> None:
    """Write the pages into the source folder, where Git ignores them."""
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    weights = Path(str(resources.files("flowmatch"))) / "weights"
    index: dict[str, dict[str, dict[str, Any]]] = json.loads((weights / "index.json").read_text())
    pages, rows = {}, []
    for task, entries in index.items():
        for name, entry in entries.items():
            file = weights / entry["file"]
            pages[f"{task}-{name}"] = _card(task, name, entry, file)
            default = " (default)" if entry.get("default") else ""
            rows.append(
                f"| [{task}/{name}]({task}-{name}.md){default} | {_parameters(file) / 1e6:.1f} M "
                f"| {entry['card']['purpose']} |"
            )
    table = "\n".join(["| name | parameters | purpose |", "|---|---|---|", *rows])
    tree = "\n".join(["```{toctree}", ":hidden:", "", *pages, "```"])
    pages["index"] = f"{INTRODUCTION}\n{table}\n\n{tree}\n"
    for page in folder.glob("*.md"):
        if page.stem not in pages:
            page.unlink()
    for stem, text in pages.items():
        page = folder / f"{stem}.md"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def _card(task: str, name: str, entry: dict[str, Any], file: Path) -> str:
    card = entry["card"]
    default = f" It is the default of `{task}`." if entry.get("default") else ""
    verb = VERBS[task].format(name=name)
    if name in ("siam", "2ch"):
        verb = f"network = fm.load({f'matching/{name}'!r})"
    return f"""\
# {task}/{name}

{card["purpose"]}{default}

```python
import flowmatch as fm

{verb}
```

| property | value |
|---|---|
| network | {entry["summary"].split(";")[0]} |
| parameters | {_parameters(file):,} |
| file | `{entry["file"]}`, {file.stat().st_size / 1e6:.1f} MB, {_types(file)} |
| licence | {card["licence"]} |

## Training data

{entry["data"][0].upper() + entry["data"][1:]}.

## Training

```bash
{_lines(entry["command"])}
```

| property | value |
|---|---|
| steps | {_list(entry.get("steps", card.get("steps", "not recorded")))} |
| seed | {_list(entry.get("seed", "not recorded"))} |
| precision | {entry["precision"]} |
| commit | {_list(entry["commit"])} |

{entry.get("note", "")}

## Figures

{_figures(card)}

## Limits

{_bullets(card["limits"])}
"""


def _figures(card: dict[str, Any]) -> str:
    figures = card["figures"]
    table = [f"| {' | '.join(figures['columns'])} |", "|---" * len(figures["columns"]) + "|"]
    table += [f"| {' | '.join(row)} |" for row in figures["rows"]]
    return (
        f"```bash\n{_lines(figures['command'])}\n```\n\n"
        + "\n".join(table)
        + (f"\n\n{figures['note']}" if "note" in figures else "")
    )


def _header(file: Path) -> dict[str, Any]:
    """Return the tensors that a ``.safetensors`` file lists at its beginning."""
    with file.open("rb") as opened:
        (size,) = struct.unpack("<Q", opened.read(8))
        header: dict[str, Any] = json.loads(opened.read(size))
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}


def _parameters(file: Path) -> int:
    return sum(prod(tensor["shape"]) for tensor in _header(file).values())


def _types(file: Path) -> str:
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64"}
    kinds = {names.get(tensor["dtype"], tensor["dtype"]) for tensor in _header(file).values()}
    return ", ".join(sorted(kinds))


def _lines(value: str | list[str]) -> str:
    """Join commands; those that are too long for a page continue on a second line."""
    commands = [value] if isinstance(value, str) else value
    return "\n".join(
        command if len(command) < 90 else re.sub(r" --(start)", r" \\\n    --\1", command)
        for command in commands
    )


def _list(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _bullets(values: list[str]) -> str:
    return "\n".join(f"- {value}" for value in values)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the cards before Sphinx looks for its sources."""
    app.connect("builder-inited", write_cards)
    return {"parallel_read_safe": True}
