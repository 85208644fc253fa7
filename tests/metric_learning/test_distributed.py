"""Losses of a batch that two processes share, against one process with the whole batch."""

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from flowmatch.metric_learning.distributed import GatheredLoss, gather_batch
from flowmatch.metric_learning.losses import make_loss

PROCESSES = 2
# A loss of pairs, of triplets, of the whole batch, with parameters, and with a queue.
NAMES = ("hadsell", "triplet", "supcon", "arcface", "proxy-anchor", "cross-batch-memory")


def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0, 0, 1, 1, 2, 2] * 2)


def modules(name):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    return network, make_loss(name, classes=3, dimension=4).double()


def gradients(network, loss, x, y):
    """Two steps of the loss with a queue between them; the gradients of the second."""
    for step in range(2):
        for module in (network, loss):
            module.zero_grad()
        embeddings = network(x)
        value = loss(embeddings, y)
        value.backward()
        if step == 0:
            loss.remember(embeddings.detach(), y)
    parts = [*network.parameters(), *loss.parameters()]
    return value.item(), [part.grad for part in parts]


def worker(rank, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES
    )
    x, y = (part.chunk(PROCESSES)[rank] for part in batch())
    results = {}
    for name in NAMES:
        network, loss = modules(name)
        value, grads = gradients(DistributedDataParallel(network), GatheredLoss(loss), x, y)
        results[name] = value, grads
    try:
        gather_batch(x[: 2 + rank], y[: 2 + rank])
    except ValueError as error:
        results["error"] = str(error)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    multiprocessing.spawn(worker, (str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_one_process(name, results):
    network, loss = modules(name)
    value, grads = gradients(network, loss, *batch())
    assert value > 0 and any(grad.any() for grad in grads)
    for result in results:
        assert result[name][0] == pytest.approx(value)
        torch.testing.assert_close(result[name][1], grads)


def test_parts_of_different_shapes_are_refused(results):
    expected = "each process needs embeddings of the same shape, got [(2, 6), (3, 6)]"
    assert [result["error"] for result in results] == [expected] * PROCESSES


def test_one_process_needs_no_group():
    x, y = batch()
    assert gather_batch(x, y)[0] is x
    network, loss = modules("hadsell")
    assert torch.equal(GatheredLoss(loss)(network(x), y), loss(network(x), y))
