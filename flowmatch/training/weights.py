"""Weights of any task: an index of those that ship, and files that know their network."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from flowmatch.io import replace_when_done

WEIGHTS = Path(__file__).parent.parent / "weights"


@dataclass(frozen=True)
class Shelf:
    """The weights of one task.

    Attributes:
        task: Its key in the index.
        models: Its networks by name.
    """

    task: str
    models: Mapping[str, Callable[..., nn.Module]]

    def shipped(self) -> dict[str, dict[str, Any]]:
        """Return the index of what ships: name -> file, model, how it was made."""
        index = json.loads((WEIGHTS / "index.json").read_text())
        found: dict[str, dict[str, Any]] = index.get(self.task, {})
        return found

    def find(self, name: str = "default", weights: str | Path | None = None) -> Path:
        """Return the file of weights that ship, or check that one of one's own is there.

        Raises:
            ValueError: No weights of that name ship.
            FileNotFoundError: There is no such file.
        """
        if weights is None:
            known = self.shipped()
            if name == "default":
                name = next((n for n, entry in known.items() if entry.get("default")), name)
            if name not in known:
                raise ValueError(
                    f"no weights named {name!r} ship with flowmatch; there are: {', '.join(known)}"
                )
            weights = WEIGHTS / known[name]["file"]
        if not Path(weights).is_file():
            raise FileNotFoundError(f"there is no file of weights at {weights}")
        return Path(weights)

    def save(
        self,
        path: str | Path,
        model: nn.Module,
        name: str,
        arguments: dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        """Write a network's weights as safetensors, with what is needed to rebuild it.

        Args:
            path: File to write, ``.safetensors``.
            model: The network.
            name: Its name in `models`.
            arguments: Its constructor's.
            dtype: Of the weights in the file; counters stay whole numbers.

        Raises:
            ValueError: There is no such network, or a weight is not finite in `dtype`.
        """
        if name not in self.models:
            raise ValueError(f"name must be one of {', '.join(self.models)}, got {name!r}")
        tensors = {
            key: t.detach().cpu().to(dtype if t.is_floating_point() else t.dtype).contiguous()
            for key, t in model.state_dict().items()
        }
        check_finite(tensors, path)
        metadata = {"model": name, "arguments": json.dumps(arguments or {})}
        with replace_when_done(Path(path)) as beside:
            beside.write_bytes(save(tensors, metadata))

    def read(self, path: Path, name: str = "default") -> nn.Module:
        """Build the network of a file, float32.

        Args:
            path: A ``.safetensors`` file.
            name: Of its network in `models`, if the file does not say.

        Raises:
            ValueError: The file is damaged, does not fit the network, or names none.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            arguments = json.loads(metadata.get("arguments", "{}"))
        except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path} is not a whole .safetensors file: {error}") from error
        check_finite(tensors, path)
        name = metadata.get("model", name)
        if name not in self.models:
            known = ", ".join(self.models)
            raise ValueError(f"{path} does not say its network; give one of {known}, got {name!r}")
        make = self.models[name]
        try:
            # First without memory: a stranger's file may ask for a network that does not fit any.
            with torch.device("meta"):
                empty = make(**arguments)
                check_fit(empty.state_dict(), tensors, path, type(empty).__name__)
        except (TypeError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{path}: {name} cannot be built with {arguments}: {error}") from error
        model = make(**arguments)
        model.load_state_dict(tensors)
        return model


def check_fit(
    expected: Mapping[str, torch.Tensor],
    tensors: Mapping[str, torch.Tensor],
    path: str | Path,
    name: str,
) -> None:
    """Refuse `tensors` whose keys and shapes are not those `expected`, naming each difference."""
    wrong = [
        *(f"{key} is missing" for key in expected.keys() - tensors.keys()),
        *(f"{key} is unexpected" for key in tensors.keys() - expected.keys()),
        *(
            f"{key} is {list(tensors[key].shape)}, not {list(expected[key].shape)}"
            for key in expected.keys() & tensors.keys()
            if tensors[key].shape != expected[key].shape
        ),
    ]
    if wrong:
        shown = "; ".join(sorted(wrong)[:8]) + ("; ..." if len(wrong) > 8 else "")
        raise ValueError(f"{path} does not fit {name}: {shown}")


def begin_with(model: nn.Module, start: Mapping[str, torch.Tensor] | None, name: str) -> None:
    """Give a network the weights that its training begins with; None leaves it as it is.

    Raises:
        ValueError: They are another network's than `name`; the message names each difference.
    """
    if start is None:
        return
    check_fit(model.state_dict(), start, "start", name)
    model.load_state_dict(start)


def check_finite(tensors: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Refuse weights that are infinite or no numbers."""
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{path}: weights must be finite, these are not: {', '.join(broken[:8])}")
