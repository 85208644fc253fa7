"""Differentiable operators with kernels of their own; one file each."""

from flowmatch.ops._native import KernelsMissing, active_kernel, kernels_problem
from flowmatch.ops.correlation import Correlation, correlation
from flowmatch.ops.warp import warp

OPS = ("correlation", "correlation_grad")  # what has compiled kernels

__all__ = [
    "OPS",
    "Correlation",
    "KernelsMissing",
    "active_kernel",
    "correlation",
    "kernels_problem",
    "warp",
]
