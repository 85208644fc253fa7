"""``flowmatch info``: what is installed, and which kernel each operator runs."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.table import Table

from flowmatch import __version__
from flowmatch.cli._tables import stdout_console
from flowmatch.cli.weights.list import shipped_weights
from flowmatch.ops import OPS, active_kernel, kernels_problem
from flowmatch.progress import counted

EXAMPLES = ("flowmatch info", "flowmatch --version")
PACKAGES = ("torch", "numpy", "opencv-python", "opencv-python-headless", "kornia", "av", "h5py")


def command() -> None:
    """Print versions, devices, kernels and weights.

    For each operator, the kernels are named that run on the CPU and on NVIDIA GPUs.
    """
    lines = [f"flowmatch {__version__}, Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            lines.append(f"  {package} {version(package)}")
        except PackageNotFoundError:
            continue
    lines += ["devices", *_devices()]
    console = stdout_console()
    console.print("\n".join(lines), soft_wrap=True)
    table = Table("op", "cpu", "cuda", title="active kernels", title_justify="left", box=None)
    for op in OPS:
        table.add_row(op, active_kernel(op, "cpu"), active_kernel(op, "cuda"))
    console.print(table)
    if problem := kernels_problem():
        console.print(f"  {problem}", soft_wrap=True)
    console.print("weights")
    for line in shipped_weights():
        console.print(f"  {line}", soft_wrap=True)


def _devices() -> list[str]:
    lines = [f"  cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"]
    for index in range(torch.cuda.device_count()):
        lines.append(f"  cuda:{index}: {torch.cuda.get_device_name(index)}")
    if torch.cuda.device_count() == 0:
        cuda = torch.version.cuda
        build = f"torch was built for CUDA {cuda}" if cuda else "torch is CPU-only"
        lines.append(f"  no CUDA device ({build})")
    other = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if other is not None and other.type != "cuda":
        devices = counted(torch.accelerator.device_count(), "device")
        lines.append(f"  {other.type}: {devices}, operators run as references")
    return lines
