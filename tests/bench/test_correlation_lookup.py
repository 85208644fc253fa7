"""All implementations of the lookup that run here agree with its reference."""

import importlib.util
from dataclasses import replace

import torch

from flowmatch.bench import measure_all
from flowmatch.bench.correlation_lookup import SUITE


def test_peers_agree_with_the_reference():
    (case,) = SUITE.cases(torch.device("cpu"), shapes={"small": (1, 8, 16, 20, 2, 2, 1)})
    names = [implementation.name for implementation in case.implementations]
    assert names[:5] == [
        "flowmatch", "torch: volume of all pairs", "torch: compiled volume",
        "torch: gather on demand", "torch: RAFT's alternate correlation",
    ]  # fmt: skip
    installed = importlib.util.find_spec("localcorr") is not None
    assert ("localcorr: standard operators" in names) == installed
    quick = [i for i in case.implementations if i.name != "torch: compiled volume"]
    (rows,) = measure_all([replace(case, implementations=tuple(quick))], 1.0, rounds=1)
    assert len(rows) == 2 * len(quick)
    assert all(row.agrees for row in rows)
