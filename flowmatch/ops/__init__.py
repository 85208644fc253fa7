"""Differentiable operators with compiled CPU and CUDA kernels, one file each."""

from flowmatch.ops._native import KernelsMissing, active_kernel, kernels_problem
from flowmatch.ops.correlation import Correlation, correlation
from flowmatch.ops.correlation_lookup import (
    correlation_lookup,
    correlation_lookup_1d,
    correlation_pyramid,
)
from flowmatch.ops.distance_field import distance_field
from flowmatch.ops.nearest import Neighbours, nearest
from flowmatch.ops.pairwise_distance import pairwise_distance
from flowmatch.ops.splat import splat
from flowmatch.ops.warp import warp

OPS = (  # dispatcher ops with compiled kernels
    "correlation",
    "correlation_grad",
    "correlation_lookup",
    "correlation_lookup_grad",
    "distance_field",
    "nearest",
    "nearest_hamming",
    "pairwise_distance",
    "splat",
    "splat_grad",
)

__all__ = [
    "OPS",
    "Correlation",
    "KernelsMissing",
    "Neighbours",
    "active_kernel",
    "correlation",
    "correlation_lookup",
    "correlation_lookup_1d",
    "correlation_pyramid",
    "distance_field",
    "kernels_problem",
    "nearest",
    "pairwise_distance",
    "splat",
    "warp",
]
