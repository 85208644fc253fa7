"""How fast the kernels are, beside what else a user could run and what the machine can do."""

from flowmatch.bench.correlation import correlation_cases
from flowmatch.bench.measure import Case, Implementation, Row, measure_all, measure_ceilings

__all__ = [
    "Case",
    "Implementation",
    "Row",
    "correlation_cases",
    "measure_all",
    "measure_ceilings",
]
