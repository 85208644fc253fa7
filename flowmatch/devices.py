"""Which device to compute on, and how much of its memory that takes."""

import ctypes
import gc
from pathlib import Path

import torch

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """Return the device of that name, or the best there is.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None takes a GPU where torch can use one.

    Raises:
        ValueError: There is no such device here.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device: torch.device | None = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu, cuda or cuda:N, got {str(name)!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name} is not here: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices"
        )
    return device


class PeakMemory:
    """The most memory that is held at once from here on, beyond what is held already.

    On the CPU that is resident memory, which Linux counts; elsewhere there is no figure.
    """

    def __init__(self, device: torch.device) -> None:
        gc.collect()
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
            return
        try:
            ctypes.CDLL(None).malloc_trim(0)  # what was freed must not serve unseen
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts from now
        except (OSError, AttributeError):
            self.before = 0
        else:
            self.before = _status("VmRSS") - _status("RssFile")

    def megabytes(self) -> float | None:
        """Return the peak so far in MB, None where it cannot be known."""
        if self.device.type == "cuda":
            return 1e-6 * (torch.cuda.max_memory_allocated(self.device) - self.before)
        if not self.before:
            return None
        # Pages of libraries come and go by themselves and are not counted.
        return 1.024e-3 * max(0, _status("VmHWM") - _status("RssFile") - self.before)


def _status(field: str) -> int:
    """Return a field of this process's status, in units of 1024 bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return 0


def check_precision(precision: str) -> str:
    """Return a key of `PRECISIONS`, or refuse it.

    Raises:
        ValueError: There is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return precision


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return a context in which convolutions and products are of a type.

    Args:
        device: Where they are computed.
        precision: A key of `PRECISIONS`; ``"float32"`` changes nothing.

    Raises:
        ValueError: There is no such precision.

    Example:
        >>> with autocast(torch.device("cpu"), "bfloat16"):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
    """
    dtype = PRECISIONS[check_precision(precision)]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
