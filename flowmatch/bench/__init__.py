"""How fast the kernels are, beside what else a user could run and what the machine can do."""

from collections.abc import Callable
from dataclasses import dataclass

from flowmatch.bench.correlation import correlation_cases
from flowmatch.bench.distance_field import distance_field_cases
from flowmatch.bench.lookup import lookup_cases
from flowmatch.bench.machine import describe_machine
from flowmatch.bench.measure import Case, Implementation, Row, measure_all, measure_ceilings
from flowmatch.bench.nearest import nearest_cases
from flowmatch.bench.pairwise import pairwise_cases
from flowmatch.bench.report import cases, html_page, markdown, peers


@dataclass(frozen=True)
class Suite:
    """What is measured of one op: ``cases(device, dtype, shapes)``, and what a shape counts."""

    cases: Callable[..., list[Case]]
    shape: str


OPS = {
    "correlation": Suite(correlation_cases, "B,C,H,W,radius,stride"),
    "lookup": Suite(lookup_cases, "B,C,H,W,radius,levels,lookups"),
    "nearest": Suite(nearest_cases, "kind,B,N,M,D"),
    "pairwise": Suite(pairwise_cases, "B,N,M,D"),
    "distance-field": Suite(distance_field_cases, "points,keypoints,side,voxels"),
}


def shape_of(op: str, text: str) -> tuple[int, ...]:
    """Read a shape such as ``8,256,48,64,10,2``.

    Raises:
        ValueError: These are not as many numbers as `op` takes, or a size is 0.
    """
    wanted = OPS[op].shape
    parts = text.split(",")
    if len(parts) != len(wanted.split(",")) or not all(p.strip().isdecimal() for p in parts):
        raise ValueError(f"the shape of {op} is {wanted}, in whole numbers, got {text!r}")
    shape = dict(zip(wanted.split(","), map(int, parts), strict=True))
    zero = [name for name, size in shape.items() if size == 0 and name not in ("kind", "radius")]
    if zero:
        raise ValueError(f"the shape of {op} is {wanted}, {zero[0]} at least 1, got {text!r}")
    return tuple(shape.values())


__all__ = [
    "OPS",
    "Case",
    "Implementation",
    "Row",
    "Suite",
    "cases",
    "describe_machine",
    "html_page",
    "markdown",
    "measure_all",
    "measure_ceilings",
    "peers",
    "shape_of",
]
