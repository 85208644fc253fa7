"""Files of tensors. They may come from strangers: nothing in them is executed."""

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from flowmatch.io import replace_when_done
from flowmatch.io._files import reason_of

# Types in files of weights; PyTorch cannot compute with further ones, such as floats of 4 bits.
_TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")


def read_safetensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a ``.safetensors`` file.

    Args:
        path: The file; the sizes in its header are compared with its length before memory is
            allocated.

    Raises:
        ValueError: The file is damaged, or holds numbers of a type that weights do not have.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
        >>> save_file({"a": torch.ones(2)}, path, {"model": "b"})
        >>> read_safetensors(path)
        ({'a': tensor([1., 1.])}, {'model': 'b'})
    """
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())  # noqa: SIM118
            kinds = {key: file.get_slice(key).get_dtype() for key in keys}
            if unknown := [key for key, kind in kinds.items() if kind not in _TYPES]:
                raise ValueError(
                    f"{path}: {unknown[0][:80]!r} is of type {kinds[unknown[0]]}, "
                    f"expected one of {', '.join(_TYPES)}"
                )
            return {key: file.get_tensor(key) for key in keys}, file.metadata() or {}
    except SafetensorError as error:
        raise _not_whole(path, error) from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of a ``.safetensors`` file, without its tensors.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise _not_whole(path, error) from error


def _not_whole(path: str | Path, error: SafetensorError) -> ValueError:
    return ValueError(f"{path} is not a whole .safetensors file: {reason_of(error)}")


def encode_safetensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a ``.safetensors`` file, the same ones for the same content.

    The library writes the metadata in random order, and a header that is no JSON for no tensors and
    no metadata.

    Example:
        >>> tensors, metadata = {"a": torch.ones(2)}, {"model": "b", "arguments": "{}"}
        >>> encode_safetensors(tensors, metadata) == encode_safetensors(tensors, metadata)
        True
    """
    encoded = save(dict(tensors))
    end = 8 + int.from_bytes(encoded[:8], "little")
    header = json.loads(encoded[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + encoded[end:]


def read_saved(path: Path) -> Any:
    """Return the content of a file of `torch.save`, on the CPU; only tensors are unpickled.

    Raises:
        ValueError: The file is damaged, compressed, claims more than it holds, or holds other
            objects than tensors.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.pth"
        >>> torch.save({"a": torch.ones(2)}, path)
        >>> read_saved(path)
        {'a': tensor([1., 1.])}
    """
    size, claimed = path.stat().st_size, 0

    def on_cpu(storage: Any, _: str) -> Any:
        nonlocal claimed
        claimed += storage.nbytes()
        if claimed > size:
            raise ValueError(f"it claims {claimed} bytes of numbers, and has {size}")
        return storage

    try:
        is_zip = zipfile.is_zipfile(path)  # older files are a sequence of pickles
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                    raise ValueError("it is compressed, which torch.save does not do")
        else:
            with path.open("rb") as file:
                if file.read(1) != pickle.PROTO:
                    raise ValueError("it is neither a zip archive nor a sequence of pickles")
        # Mapped: only the used part takes memory, and no number is read beyond a record's end.
        # The bytes of an older file are read before: a file would allocate what it claims.
        source = path if is_zip else io.BytesIO(path.read_bytes())
        return torch.load(source, map_location=on_cpu, weights_only=True, mmap=is_zip)
    except Exception as error:  # an untrusted file may fail in any way
        # torch wraps the error of its unpickler in the advice to unpickle everything.
        refused = isinstance(error, pickle.UnpicklingError) and error.__context__
        lines = str(refused or error).strip().splitlines()
        reason = reason_of(ValueError(lines[0] if lines else type(error).__name__))
        raise ValueError(f"{path} is not a complete file of tensors only: {reason}") from error


def write_saved(path: Path, content: Any) -> None:
    """Write a file by `torch.save`, the same bytes for the same content.

    It gets its name only when it is complete.

    Raises:
        OSError: The file cannot be written; an earlier one is left as it was.
    """
    with replace_when_done(path) as temporary:
        try:
            with temporary.open("wb") as file:  # of a path, torch would store its name
                torch.save(content, file)
        except RuntimeError as error:  # of PyTorch's writer, also on a full disk
            reason = f"{reason_of(error)[:80]}; is the disk full?"
            raise OSError(f"{path} cannot be written: {reason}") from error
