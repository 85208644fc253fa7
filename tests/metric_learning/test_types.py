"""Types of what losses, miners and metrics take: floats, tensors, tuples of other libraries."""

import copy

import numpy as np
import pytest
import torch

from flowmatch import metric_learning
from flowmatch.metric_learning import ensembles, losses, protocol
from flowmatch.metric_learning.losses import LOSSES, make_loss
from flowmatch.metric_learning.miners import MINERS
from flowmatch.metric_learning.tuples import all_triplets, as_pairs

D, CLASSES = 4, 3

# Losses with parameters; the library would convert those of the first row for good.
LEARNED = (
    "proxynca++", "softtriple", "normalised-softmax", "cosface",
    "proxy-anchor",
    "margin", "proxynca", "arcface", "sub-centre-arcface", "group",
)  # fmt: skip


@pytest.mark.parametrize("types", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
@pytest.mark.parametrize("name", LEARNED)
def test_embeddings_of_another_type_leave_parameters_as_they_are(name, types, batch):
    torch.manual_seed(0)
    loss = make_loss(name, classes=CLASSES, dimension=D).to(types[0])
    same = copy.deepcopy(loss).to(types[1])
    optimizer = torch.optim.Adam(loss.parameters())
    loss(batch[0].to(types[0]), batch[1]).backward()
    optimizer.step()  # its state has the type of the parameters
    optimizer.zero_grad()
    loss.load_state_dict(same.state_dict())
    x, y = batch[0].to(types[1]).requires_grad_(), batch[1]
    torch.manual_seed(1)
    value = loss(x, y)
    value.backward()
    optimizer.step()
    assert value.dtype == x.grad.dtype == types[1]
    assert {p.dtype for p in loss.parameters()} == {types[0]}
    z = batch[0].to(types[1]).requires_grad_()
    torch.manual_seed(1)
    expected = same(z, y)
    expected.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(x.grad, z.grad)
    for own, other in zip(loss.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(own.grad.to(types[1]), other.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [list, np.array, tuple])
def test_what_is_no_tensor_is_refused_by_every_function(kind, batch):
    x, y = batch
    numbers, rows = kind(y.tolist()), kind(x.tolist())
    kind = type(numbers).__name__
    known = metric_learning.enrol(x, y, ("a", "b", "c"), false_accept_rate=1.0)
    tree, part = metric_learning.ClassTree(x, y), x[:, None]
    made = [make_loss(name, classes=CLASSES, dimension=D) for name in LOSSES]
    calls = [lambda loss=loss: loss(x, numbers) for loss in made]
    miners = [make() for make in MINERS.values()]
    calls += [lambda miner=miner: miner(x, numbers) for miner in miners]
    calls += [
        lambda: all_triplets(numbers),
        lambda: metric_learning.all_pairs(numbers),
        lambda: metric_learning.retrieval_scores(x, numbers),
        lambda: metric_learning.clustering_scores(x, numbers),
        lambda: metric_learning.compare_clusterings(y, numbers),
        lambda: metric_learning.enrol(x, numbers, ("a", "b", "c")),
        lambda: metric_learning.enrol(x, y, ("a", "b", "c"), validation=(x, numbers)),
        lambda: metric_learning.ClassTree(x, numbers),
        lambda: tree.places(numbers),
        lambda: metric_learning.HierarchicalTripletLoss(tree)(x, numbers),
        lambda: protocol.score(x, numbers, "cosine"),
        lambda: protocol.verification_scores(x, numbers, "cosine", 0.1),
        lambda: ensembles.BierLoss()([x, x], numbers),
        lambda: ensembles.CascadeLoss()([x, x, x], numbers),
        lambda: ensembles.AttentionEnsembleLoss()(part, numbers),
        lambda: ensembles.divide(x, numbers, 2),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"labels must be a tensor, got {kind}"):
            call()
    calls = [
        lambda: make_loss("triplet", classes=CLASSES, dimension=D)(rows, y),
        lambda: metric_learning.retrieval_scores(rows, y),
        lambda: known.add("d", rows),
        lambda: known.query(rows),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"embeddings must be a tensor, got {kind}"):
            call()
    with pytest.raises(ValueError, match=f"student must be a tensor, got {kind}"):
        metric_learning.RelationalDistillation()(rows, x)
    with pytest.raises(ValueError, match=f"distances must be a tensor, got {kind}"):
        metric_learning.roc(rows, y)
    with pytest.raises(ValueError, match=f"same must be a tensor, got {kind}"):
        metric_learning.verify_pairs(x[0], numbers, 0.1)


def test_tuples_of_other_libraries_are_accepted(batch):
    x, y = batch
    triplets = all_triplets(y)
    for name, make in LOSSES.items():
        if make.takes_tuples:
            torch.manual_seed(0)
            loss = make_loss(name, classes=CLASSES, dimension=D)
            for tuples in (triplets, as_pairs(None, y)):
                assert torch.equal(loss(x, y, tuples), loss(x, y, tuple(tuples))), name
    with pytest.raises(ValueError, match="tuples must be triplets or pairs of a miner, got Tensor"):
        losses.TripletLoss()(x, y, torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="anchor must be a tensor, got list"):
        losses.TripletLoss()(x, y, ([0], [1], [3]))
    one = torch.zeros(1, dtype=torch.int64)
    for index in (-1, 9):
        message = rf"negative must be in 0\.\.8, got {index}\.\.{index}"
        with pytest.raises(ValueError, match=message):
            losses.TripletLoss()(x, y, (one, one + 1, one + index))
    value = losses.TripletLoss()(x, y, (one.int(), one + 1, one + 3))
    assert torch.equal(value, losses.TripletLoss()(x, y, (one, one + 1, one + 3)))
    with pytest.raises(ValueError, match=r"anchor must be int64 \[T\], got torch.float32 \(1,\)"):
        losses.TripletLoss()(x, y, (one.float(), one, one))
    with pytest.raises(ValueError, match=r"must have equal lengths, got \[1, 1, 2\]"):
        losses.TripletLoss()(x, y, (one, one, torch.cat([one, one])))
