"""Description of the machine and the software that a benchmark ran on."""

import datetime
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from flowmatch import __version__

_PACKAGES = (
    "torch",
    "faiss-cpu",
    "kornia",
    "opencv-python",
    "opencv-python-headless",
    "scikit-learn",
    "scipy",
    "spatial-correlation-sampler",
)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return the description for a file of results: device, versions, commit, date."""
    versions = {"flowmatch": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_cpu_name()}, {torch.get_num_threads()} threads"
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {"device": name, "versions": versions, "commit": _commit(), "date": today}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or 'CPU'} ({torch.backends.cpu.get_cpu_capability()})"


def _commit() -> str | None:
    """Return the commit of the git checkout that contains this file, or None."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
