"""Benchmarks of the operators, against other implementations and the machine's limits."""

from flowmatch.bench import (
    correlation,
    correlation_lookup,
    distance_field,
    nearest,
    pairwise_distance,
    splat,
)
from flowmatch.bench.machine import describe_machine
from flowmatch.bench.measure import (
    Case,
    Implementation,
    Row,
    Suite,
    measure_all,
    measure_ceilings,
)
from flowmatch.bench.report import group_rows, html_page, markdown, peers

OPS = {
    "correlation": correlation.SUITE,
    "correlation_lookup": correlation_lookup.SUITE,
    "nearest": nearest.SUITE,
    "pairwise_distance": pairwise_distance.SUITE,
    "distance_field": distance_field.SUITE,
    "splat": splat.SUITE,
}


def shape_of(op: str, text: str) -> tuple[int, ...]:
    """Parse a shape such as ``8,256,48,64,10,2``.

    Raises:
        ValueError: The number of values is not that of `op`, or a size is 0.
    """
    dimensions = OPS[op].dimensions
    names, parts = dimensions.split(","), text.split(",")
    if len(parts) != len(names) or not all(p.strip().isdecimal() for p in parts):
        raise ValueError(f"the shape of {op} is {dimensions}, as integers, got {text!r}")
    shape = dict(zip(names, map(int, parts), strict=True))
    zero = [name for name, size in shape.items() if size == 0 and name not in ("kind", "radius")]
    if zero:
        raise ValueError(f"the shape of {op} is {dimensions}, {zero[0]} at least 1, got {text!r}")
    return tuple(shape.values())


__all__ = [
    "OPS",
    "Case",
    "Implementation",
    "Row",
    "Suite",
    "describe_machine",
    "group_rows",
    "html_page",
    "markdown",
    "measure_all",
    "measure_ceilings",
    "peers",
    "shape_of",
]
