"""Networks by name or file, as the options ``--model`` and ``--filter`` give them."""

from pathlib import Path
from typing import Any

from flowmatch.devices import choose_device
from flowmatch.matching.describe import CLASSICAL, load_descriptor
from flowmatch.matching.store import STORE
from flowmatch.zoo import file_digest


def descriptor_network(descriptor: str, device: str | None) -> Any:
    """Return a classical descriptor's name, or the network of weights by name or in a file."""
    return load_descriptor(descriptor, choose_device(device))


def descriptor_name(descriptor: str) -> str:
    """Return a word for a descriptor that changes with its weights."""
    if descriptor in CLASSICAL:
        return descriptor
    return file_digest(Path(descriptor) if Path(descriptor).suffix else STORE.find(descriptor))
