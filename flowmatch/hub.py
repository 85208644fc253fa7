"""Weights as folders, and as repositories of the Hugging Face Hub.

A folder or repository has ``config.json``, which names the network, ``model.safetensors``, and a
model card. Both come from strangers: the files are bounded, and nothing is unpickled.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from flowmatch.catalogue import TASKS
from flowmatch.io import replace_when_done
from flowmatch.zoo import WeightStore

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
LIMITS = {CONFIG: 2**16, WEIGHTS: 2**32}
"""Largest size of each file that is read, in bytes."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class _Source(NamedTuple):
    """Weights to publish.

    Attributes:
        task: Package of the network.
        file: The ``.safetensors`` file.
        title: Title of the card.
        entry: Entry in the index of weights, empty for weights that do not ship.
    """

    task: str
    file: Path
    title: str
    entry: dict[str, Any]


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    device: str | torch.device | None = "cpu",
) -> nn.Module:
    """Build a network from a folder or a repository of the Hugging Face Hub.

    Args:
        source: Folder that `save_pretrained` wrote, or ``"org/name"`` of a repository that
            `push_to_hub` wrote. What is downloaded stays in the cache of huggingface_hub.
        revision: Branch, tag or commit of the repository; None is its main branch.
        token: Access token for a private repository; None takes the one of ``hf auth login``.
        device: Device of the network; None takes a GPU where torch can use one.

    Returns:
        The network, in eval mode, float32.

    Raises:
        ValueError: `source` is neither, or its files are too large, damaged, or do not fit.
        FileNotFoundError: The folder or the repository lacks one of the files.
        ConnectionError: The Hub cannot be reached.
        ImportError: huggingface_hub is not installed (``pip install 'flowmatch[hub]'``).

    Example:
        >>> folder = Path(tempfile.mkdtemp()) / "pyramid"
        >>> save_pretrained("flow/pyramid", folder)
        >>> type(from_pretrained(folder)).__name__
        'PyramidNet'
    """
    if Path(source).is_dir():
        files = {name: Path(source) / name for name in LIMITS}
    elif _REPOSITORY.fullmatch(str(source)):
        files = {name: _download(str(source), name, revision, token) for name in LIMITS}
    else:
        raise ValueError(
            f"source must be a folder with {CONFIG} and {WEIGHTS}, or ORG/NAME of a repository, "
            f"got {str(source)!r}"
        )
    for name, file in files.items():
        if not file.is_file():
            raise FileNotFoundError(f"{source} has no {name}")
        _check_size(source, name, file.stat().st_size)
    config = _read_config(files[CONFIG])
    if config["model"] != _metadata(files[WEIGHTS]).get("model"):
        raise ValueError(f"{source}: {CONFIG} and {WEIGHTS} do not name the same network")
    network: nn.Module = _store(config["task"]).load(weights=files[WEIGHTS], device=device)
    return network


def save_pretrained(model: str | Path, folder: str | Path) -> None:
    """Write a folder that `from_pretrained` reads: weights, configuration and model card.

    Args:
        model: ``"task/name"`` of weights that ship, or a ``.safetensors`` file that `save_weights`
            of a task wrote.
        folder: Folder to write to; it is created if it does not exist.

    Raises:
        ValueError: The name is unknown, or the file does not say its network.
        FileNotFoundError: The file does not exist.
    """
    source = _find(model)
    metadata = _metadata(source.file)
    config = {
        "library_name": "flowmatch",
        "task": source.task,
        "model": metadata["model"],
        "arguments": _arguments(source.file, metadata),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replace_when_done(folder / WEIGHTS) as temporary:
        shutil.copyfile(source.file, temporary)
    for name, text in (
        (CONFIG, json.dumps(config, indent=2) + "\n"),
        (CARD, model_card(source.task, source.title, source.entry)),
    ):
        with replace_when_done(folder / name) as temporary:
            temporary.write_text(text)


def push_to_hub(
    model: str | Path, repository: str, *, private: bool = False, token: str | None = None
) -> str:
    """Upload weights, with their configuration and model card, to the Hugging Face Hub.

    Args:
        model: Weights, as `save_pretrained` takes them.
        repository: ``"org/name"``; it is created if it does not exist.
        private: Create a private repository.
        token: Access token with the right to write; None takes the one of ``hf auth login``.

    Returns:
        Address of the commit.

    Raises:
        ValueError: The weights or the name are not accepted.
        ConnectionError: The Hub cannot be reached, or refuses.
        ImportError: huggingface_hub is not installed (``pip install 'flowmatch[hub]'``).
    """
    if not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"repository must be ORG/NAME, got {repository!r}")
    hub = _hub()
    api = hub.HfApi(endpoint=_endpoint(), token=token, library_name="flowmatch")
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        with _errors_of_the_hub(f"{repository} cannot be uploaded"):
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Upload by flowmatch"
            )
    return str(commit.commit_url)


def model_card(task: str, title: str, entry: dict[str, Any]) -> str:
    """Return the text of a model card.

    Args:
        task: Package of the network.
        title: Name of the weights.
        entry: Their entry in the index of weights; an empty one gives a card without figures.
    """
    card = entry.get("card", {})
    header = ["---", "library_name: flowmatch", f"tags: [{task.replace('_', '-')}]"]
    if "licence" in card:
        header.insert(1, f"license: {card['licence'].lower()}")
    use = [
        "```python",
        "import flowmatch as fm",
        "",
        'network = fm.hub.from_pretrained("ORG/NAME")  # or a folder',
        "```",
    ]
    parts = [[*header, "---"], [f"# {title}"], [card["purpose"]] if card else [], use]
    if card:
        figures = card["figures"]
        rows = [figures["columns"], ["---"] * len(figures["columns"]), *figures["rows"]]
        parts += [
            [f"Training data: {entry['data']}."],
            ["## Figures"],
            [f"| {' | '.join(row)} |" for row in rows],
            [figures["note"]] if "note" in figures else [],
            ["## Training", "", "```bash", *entry["command"], "```"],
            ["## Limits", "", *(f"- {limit}" for limit in card["limits"])],
        ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


# ---- Files -------------------------------------------------------------------------------------


def _store(task: str) -> WeightStore:
    store: WeightStore = import_module(f"flowmatch.{task}.store").STORE
    return store


def _find(model: str | Path) -> _Source:
    task, slash, name = str(model).partition("/")
    if slash and task in TASKS and not Path(model).suffix:
        store = _store(task)
        name = store.default_name() if name == "default" else name
        return _Source(task, store.find(name), f"{task}/{name}", store.available()[name])
    path = Path(model)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights at {path}")
    kind = _metadata(path).get("model")
    for task in TASKS:
        if kind in _store(task).models:
            return _Source(task, path, path.stem, {})
    raise ValueError(f"{path} does not say its network; write it by save_weights of its task")


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole .safetensors file: {_line(error)}") from error


def _arguments(path: Path, metadata: dict[str, str]) -> Any:
    try:
        return json.loads(metadata.get("arguments", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has damaged arguments: {_line(error)}") from error


def _read_config(path: Path) -> dict[str, str]:
    """Return the task and the name of a network."""
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {_line(error)}") from error
    task = config.get("task") if isinstance(config, dict) else None
    if not isinstance(task, str) or task not in TASKS:
        raise ValueError(f"{path}: task must be one of {', '.join(TASKS)}, got {task!r:.80}")
    model, models = config.get("model"), _store(task).models
    if not isinstance(model, str) or model not in models:
        raise ValueError(f"{path}: model must be one of {', '.join(models)}, got {model!r:.80}")
    return {"task": task, "model": model}


def _check_size(source: str | Path, name: str, size: int | None) -> None:
    if size is None or size > LIMITS[name]:
        raise ValueError(f"{source}: {name} has {size} bytes, more than {LIMITS[name]}")


# ---- The Hub -----------------------------------------------------------------------------------


def _download(repository: str, name: str, revision: str | None, token: str | None) -> Path:
    """Return a file of a repository in the cache; its size is checked before it is downloaded."""
    hub = _hub()
    endpoint = _endpoint()
    url = hub.hf_hub_url(repository, name, revision=revision, endpoint=endpoint)
    with _errors_of_the_hub(f"{name} of {repository} cannot be downloaded"):
        found = hub.get_hf_file_metadata(url, token=token, endpoint=endpoint)
    _check_size(repository, name, found.size)
    with _errors_of_the_hub(f"{name} of {repository} cannot be downloaded"):
        return Path(
            hub.hf_hub_download(
                repository, name, revision=found.commit_hash, token=token, endpoint=endpoint
            )
        )


@contextmanager
def _errors_of_the_hub(problem: str) -> Iterator[None]:
    """Turn errors of huggingface_hub, and of the HTTP client that it uses, into one line."""
    try:
        yield
    except Exception as error:
        errors = import_module("huggingface_hub.errors")
        missing = (errors.RepositoryNotFoundError, errors.EntryNotFoundError)
        kind = FileNotFoundError if isinstance(error, missing) else ConnectionError
        raise kind(f"{problem}: {_line(error)}") from error


def _hub() -> Any:
    try:
        return import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise ImportError(
            "the Hugging Face Hub needs huggingface_hub, which is not installed: "
            "pip install 'flowmatch[hub]'"
        ) from error


def _endpoint() -> str | None:
    """Return the address of the Hub, if it is another one: HF_ENDPOINT names a mirror."""
    return os.environ.get("HF_ENDPOINT")


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
