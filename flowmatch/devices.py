"""Devices, their memory, and floating-point precision."""

import ctypes
import gc
from pathlib import Path

import torch

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """Return a device that torch can use here.

    On devices other than the CPU and NVIDIA GPUs, the operators of flowmatch run as their
    references, in plain PyTorch.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"xpu"`` or any other accelerator of
            torch; None is a GPU if torch can use one, else the CPU.

    Raises:
        ValueError: The device does not exist, or not on this machine.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        count = _device_count(device.type)
    except (RuntimeError, AttributeError):  # unknown to torch, or without devices, as meta
        raise ValueError(
            f"device must be cpu, cuda, mps, xpu or another accelerator of torch, with a number "
            f"such as cuda:1 or without, got {str(name)!r}"
        ) from None
    if (device.index or 0) >= count:
        raise ValueError(
            f"device {name} is not here: torch {torch.__version__} sees "
            f"{count} {device.type.upper()} devices"
        )
    return device


def _device_count(kind: str) -> int:
    """Return the number of devices of a kind; AttributeError or RuntimeError if it has none."""
    if kind == "cpu":
        return 1
    module = torch.get_device_module(kind)
    return int(module.device_count()) if module.is_available() else 0


class PeakMemory:
    """Peak memory from the construction of this object on, beyond what was already allocated.

    On the CPU it is resident memory, which only Linux reports; on NVIDIA GPUs it is what torch
    allocates; elsewhere it is unknown.

    Args:
        device: Device whose memory is measured.
    """

    def __init__(self, device: torch.device) -> None:
        gc.collect()
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
            return
        if device.type != "cpu":
            self.before = 0
            return
        try:
            ctypes.CDLL(None).malloc_trim(0)  # or freed memory is reused unnoticed
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        except (OSError, AttributeError):
            self.before = 0
        else:
            self.before = _status("VmRSS") - _status("RssFile")

    def megabytes(self) -> float | None:
        """Return the peak so far in MB; None if it is unknown."""
        if self.device.type == "cuda":
            return 1e-6 * (torch.cuda.max_memory_allocated(self.device) - self.before)
        if not self.before:
            return None
        # Pages of libraries are not counted: the kernel loads and drops them.
        return 1.024e-3 * max(0, _status("VmHWM") - _status("RssFile") - self.before)


def _status(field: str) -> int:
    """Return a field of the status of this process, in units of 1024 bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return 0


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out: in NumPy, in CUDA, or in PyTorch's CPU allocator.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("wrong shape"))
        (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error)


def check_precision(precision: str) -> str:
    """Return a precision if it is a key of `PRECISIONS`.

    Raises:
        ValueError: The precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return precision


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return a context in which convolutions and matrix products are computed in a precision.

    Args:
        device: Device of the computation.
        precision: Key of `PRECISIONS`; ``"float32"`` changes nothing.

    Raises:
        ValueError: The precision is unknown.

    Example:
        >>> with autocast(torch.device("cpu"), "bfloat16"):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
    """
    dtype = PRECISIONS[check_precision(precision)]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
