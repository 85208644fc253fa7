"""Memory of losses and miners: no tensor of all positive by all negative pairs."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flowmatch.metric_learning.losses import LOSSES, make_loss
from flowmatch.metric_learning.miners import MINERS
from flowmatch.metric_learning.tuples import Pairs, all_pairs, as_triplets

N, D, CLASSES = 48, 8, 4
LABELS = torch.arange(CLASSES).repeat_interleave(N // CLASSES)
TRIPLETS = N * (N // CLASSES) * N


class Largest(TorchDispatchMode):
    """The largest number of elements of a tensor that an operator returns."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, torch.Tensor):
                self.count = max(self.count, part.numel())
        return result


def embeddings():
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_need_no_more_than_all_triplets(name):
    x, loss = embeddings(), make_loss(name, classes=CLASSES, dimension=D)
    with Largest() as largest:
        loss(x, LABELS).backward()
    assert largest.count <= 4 * TRIPLETS


@pytest.mark.parametrize("miner", [None, *MINERS])
def test_lifted_structure_needs_no_more_than_pairs(miner):
    x, loss = embeddings(), make_loss("lifted", classes=CLASSES, dimension=D)
    tuples = None if miner is None else MINERS[miner]()(x, LABELS)
    with Largest() as largest:
        loss(x, LABELS, tuples).backward()
    assert largest.count <= max(N * N * D, 0 if tuples is None else len(tuples[0]))


@pytest.mark.parametrize("name", [name for name, make in LOSSES.items() if make.takes_tuples])
def test_pairs_of_a_miner_need_no_more_than_their_triplets(name):
    x, loss = embeddings(), make_loss(name, classes=CLASSES, dimension=D)
    pairs = all_pairs(LABELS)
    with Largest() as largest:
        loss(x, LABELS, pairs).backward()
    assert largest.count <= 4 * TRIPLETS < len(pairs.anchor) * len(pairs.negative) / 4


@pytest.mark.parametrize("seed", range(3))
def test_triplets_of_pairs_are_those_that_share_an_anchor(seed):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randint(0, 6, (k,), generator=generator) for k in (9, 9, 14, 14)]
    triplets = as_triplets(Pairs(*parts), torch.zeros(6, dtype=torch.int64))
    a, p, b, n = (part.tolist() for part in parts)
    places = itertools.product(range(9), range(14))
    expected = [(a[i], p[i], n[j]) for i, j in places if a[i] == b[j]]
    assert list(zip(*(part.tolist() for part in triplets), strict=True)) == expected
