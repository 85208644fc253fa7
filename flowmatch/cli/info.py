"""``flowmatch info``: what is installed, and which kernel each op runs."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.console import Console
from rich.table import Table

from flowmatch import __version__
from flowmatch.cli.weights.list import shipped_weights
from flowmatch.ops import OPS, active_kernel, kernels_problem

PACKAGES = ("torch", "numpy", "opencv-python", "opencv-python-headless", "kornia", "av", "h5py")


def command() -> None:
    """Print versions, devices, the active kernel of each op, and the weights that ship."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"flowmatch {__version__}, Python {platform.python_version()}")
    for package in PACKAGES:
        try:
            console.print(f"  {package} {version(package)}")
        except PackageNotFoundError:
            continue
    console.print("devices")
    console.print(
        f"  cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    for index in range(torch.cuda.device_count()):
        console.print(f"  cuda:{index}: {torch.cuda.get_device_name(index)}")
    if torch.cuda.device_count() == 0:
        built = (
            f"torch was built for CUDA {torch.version.cuda}"
            if torch.version.cuda
            else "torch is CPU-only"
        )
        console.print(f"  no CUDA device ({built})")
    table = Table("op", "cpu", "cuda", title="active kernels", title_justify="left", box=None)
    for op in OPS:
        table.add_row(op, active_kernel(op, "cpu"), active_kernel(op, "cuda"))
    console.print(table)
    if problem := kernels_problem():
        console.print(f"  {problem}")
    console.print("weights")
    for line in shipped_weights():
        console.print(f"  {line}")
