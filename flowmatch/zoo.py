"""Weights by name: those that ship, and files of one's own; one store for each task.

A file of weights is safetensors that names its network and its arguments. Files come from
strangers: nothing is unpickled, and a file that does not fit is refused before memory is taken.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowmatch.devices import choose_device
from flowmatch.io import replace_when_done
from flowmatch.io._files import reason_of, short_line
from flowmatch.tensor_files import encode_safetensors, read_safetensors

_LARGEST_ARGUMENT = 65536  # of a constructor: no network that ships has more than 4096 of anything
# Names that torch.compile, FSDP and checkpoint_wrapper insert, for a part of a network as well.
_INSERTED = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
PUBLISHED_SUFFIXES = (".pth", ".pt", ".ckpt", ".tar", ".params", ".bin", ".t7")
"""Suffixes of weights that others published; those of this package are ``.safetensors``."""
WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class WeightStore:
    """The weights of one task.

    Attributes:
        task: Key of the task in the index of weights, such as ``"flow"``.
        models: Constructors of the task's networks by name.
        memory_format: Memory format of loaded networks.
        read_published: Function that builds a network from a file that others published, if the
            task knows such files; their suffix is one of `PUBLISHED_SUFFIXES`.

    Example:
        >>> store = WeightStore("flow", {"pyramid": nn.Identity})
        >>> store.default_name() in store.available()
        True
    """

    task: str
    models: Mapping[str, Callable[..., nn.Module]]
    memory_format: torch.memory_format | None = None
    read_published: Callable[[Path], nn.Module] | None = None

    def available(self) -> dict[str, dict[str, Any]]:
        """Return the index of the weights that ship: name -> file, model, how it was made."""
        index = json.loads((WEIGHTS / "index.json").read_text())
        entries: dict[str, dict[str, Any]] = index.get(self.task, {})
        return entries

    def default_name(self) -> str:
        """Return the name of the weights that ``"default"`` stands for.

        Raises:
            ValueError: No weights of this task ship.
        """
        for name, entry in self.available().items():
            if entry.get("default"):
                return name
        raise ValueError(f"no weights for {self.task} ship with flowmatch")

    def find(self, name: str | Path = "default", weights: str | Path | None = None) -> Path:
        """Return the file that `load` reads.

        Args:
            name: ``"default"``, the name of weights that ship, or a file.
            weights: A file, whatever the name.

        Raises:
            ValueError: No weights of that name ship.
            FileNotFoundError: The file does not exist.
        """
        if weights is None:
            if _is_file_name(name):
                weights = name
            else:
                known = self.available()
                name = self.default_name() if name == "default" else str(name)
                if name not in known:
                    names = f"there are: {', '.join(known)}" if known else "give a file of weights"
                    raise ValueError(f"no weights named {name!r} ship with flowmatch; {names}")
                weights = WEIGHTS / known[name]["file"]
        if not Path(weights).is_file():
            raise FileNotFoundError(f"there is no file of weights at {weights}")
        return Path(weights)

    def load(
        self,
        model: str | Path | nn.Module = "default",
        *,
        weights: str | Path | None = None,
        device: str | torch.device | None = "cpu",
    ) -> nn.Module:
        """Build a network with trained weights.

        Args:
            model: ``"default"``; the name of weights that ship (`available` lists them); a
                file; or a network, which is only moved to the device.
            weights: A ``.safetensors`` file, such as `save` writes. It names its network; if it
                does not, `model` does. Or a published file, if the task knows such files.
            device: Device of the network; None takes a GPU where torch can use one, and leaves a
                given network where it is.

        Returns:
            The network, in eval mode; float32 unless it was given as a network.

        Raises:
            ValueError: The name or the device is unknown, or the file is damaged or does not fit
                its network.
            FileNotFoundError: The file does not exist.
        """
        if isinstance(model, nn.Module):
            return (model if device is None else model.to(choose_device(device))).eval()
        target = choose_device(device)
        path = self.find(model, weights)
        is_published = path.suffix.lower() in PUBLISHED_SUFFIXES
        network = (self._published(path) if is_published else self.read(path, str(model))).eval()
        if self.memory_format is None:
            return network.to(target)
        return network.to(target, memory_format=self.memory_format)  # type: ignore[call-overload,no-any-return]

    def _published(self, path: Path) -> nn.Module:
        if self.read_published is None:
            raise ValueError(
                f"{path}: expected weights in a .safetensors file; published files of "
                f"{self.task.replace('_', ' ')} are not known"
            )
        return self.read_published(path)

    def digest(self, name: str | Path = "default", weights: str | Path | None = None) -> str:
        """Return the name and a hash of the file that `load` reads: it changes when they do."""
        return file_digest(self.find(name, weights))

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
            name: Name of the network in `models`.
            arguments: Arguments of its constructor.
            dtype: Type of the weights in the file; counters stay whole numbers.

        Raises:
            ValueError: The network is unknown, its weights do not fit `name` and `arguments`, or a
                weight is not finite in `dtype`.
        """
        if name not in self.models:
            raise ValueError(f"name must be one of {', '.join(self.models)}, got {name!r}")
        tensors = {
            key: t.detach().cpu().to(dtype if t.is_floating_point() else t.dtype).contiguous()
            for key, t in unwrapped(model.state_dict()).items()
        }
        with torch.device("meta"):
            expected = self.models[name](**(arguments or {})).state_dict()
        check_fit(expected, tensors, path, name)
        check_finite(tensors, path)
        metadata = {"model": name, "arguments": json.dumps(arguments or {})}
        with replace_when_done(Path(path)) as temporary:
            temporary.write_bytes(encode_safetensors(tensors, metadata))

    def read(self, path: Path, name: str = "default") -> nn.Module:
        """Build the network of a file, float32, on the CPU.

        Args:
            path: A ``.safetensors`` file.
            name: Name of its network in `models`, if the file does not say.

        Raises:
            ValueError: The file is damaged, does not fit the network, or names none.
        """
        tensors, metadata = read_safetensors(path)
        tensors = unwrapped(tensors)  # of a training loop that wrote the file itself
        arguments = _read_arguments(path, metadata.get("arguments", "{}"))
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
        except Exception as error:  # arguments of other types may fail anywhere in a constructor
            raise ValueError(
                f"{path}: {name} cannot be built with {str(arguments)[:200]}: {reason_of(error)}"
            ) from error
        check_fit(empty.state_dict(), tensors, path, type(empty).__name__)
        model = make(**arguments)
        model.load_state_dict(tensors)
        return model.float()  # whatever torch.set_default_dtype says


def _read_arguments(path: Path, text: str) -> dict[str, Any]:
    """Return a constructor's arguments; numbers are bounded, as some are numbers of loops."""

    def number(word: str) -> float:
        value = float(word)
        if not abs(value) <= _LARGEST_ARGUMENT:
            raise ValueError(f"{word[:20]} is beyond {_LARGEST_ARGUMENT}")
        return value

    try:
        arguments = json.loads(
            text,
            parse_int=lambda word: int(number(word)),
            parse_float=number,
            parse_constant=number,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: the arguments of its network are damaged: {reason_of(error)}"
        ) from error
    if not isinstance(arguments, dict):
        raise ValueError(f"{path}: expected arguments of its network by name, got {text[:80]!r}")
    return arguments


def file_digest(path: Path) -> str:
    """Return the name and a hash of a file: it changes when they do."""
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state without the names that wrappers of PyTorch add to its keys.

    These are torch.compile, FSDP and checkpoint_wrapper, around the network or parts of it;
    DataParallel, DistributedDataParallel and AveragedModel around the network, with the latter's
    counter. Keys that would coincide are left as they are.

    Example:
        >>> unwrapped({"module.encoder._orig_mod.weight": 1})
        {'encoder.weight': 1}
    """
    result = {
        ".".join(part for part in key.split(".") if part not in _INSERTED): value
        for key, value in state.items()
    }
    if len(result) < len(state):
        return dict(state)
    while (names := result.keys() - {"n_averaged"}) and all(k.startswith("module.") for k in names):
        result = {key.removeprefix("module."): result[key] for key in result if key in names}
    return result


def check_fit(
    expected: Mapping[str, torch.Tensor],
    tensors: Mapping[str, torch.Tensor],
    path: str | Path,
    name: str,
) -> None:
    """Check that tensors have the expected keys and shapes.

    Raises:
        ValueError: They have not; the message names the differences.
    """
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
        shown = "; ".join(map(short_line, sorted(wrong)[:8])) + ("; ..." if len(wrong) > 8 else "")
        raise ValueError(f"{path} does not fit {name}: {shown}")


def load_initial_weights(
    model: nn.Module,
    start: Mapping[str, torch.Tensor] | None,
    name: str,
    added: Sequence[str] = (),
) -> None:
    """Load the weights that a training run begins with; None leaves the network as it is.

    Args:
        model: The network.
        start: The weights.
        name: Name of the network, for messages.
        added: Prefixes of layers that begin anew, whether `start` has them or not.

    Raises:
        ValueError: They belong to another network than `name`; the message names each difference.
    """
    if start is None:
        return
    if added:
        anew = tuple(added)
        start = {key: tensor for key, tensor in start.items() if not key.startswith(anew)}
        start |= {k: v for k, v in model.state_dict().items() if k.startswith(anew)}
    check_fit(model.state_dict(), start, "start", name)
    model.load_state_dict(start)


def check_float32(network: nn.Module) -> None:
    """Check that a network computes in float32, as what it is given does.

    Raises:
        ValueError: Its weights have another type.
    """
    types = {p.dtype for p in network.parameters() if p.is_floating_point()} - {torch.float32}
    if types:
        raise ValueError(
            f"the model must be float32, got {', '.join(sorted(map(str, types)))}; "
            "the option precision computes in half types"
        )


def check_finite(tensors: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Check that weights are finite.

    Raises:
        ValueError: Some are infinite or NaN; the message names them.
    """
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        shown = ", ".join(map(short_line, broken[:8]))
        raise ValueError(f"{path}: weights must be finite, these are not: {shown}")


def _is_file_name(name: str | Path) -> bool:
    suffixes = (".safetensors", *PUBLISHED_SUFFIXES)
    return isinstance(name, Path) or name.lower().endswith(suffixes) or "/" in name
