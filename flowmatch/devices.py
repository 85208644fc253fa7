"""Which device to compute on."""

import torch


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
