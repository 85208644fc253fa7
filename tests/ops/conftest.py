"""Fixtures of the ops' tests."""

import pytest
import torch


@pytest.fixture
def same_with_any_threads():
    """Compute a tuple of tensors on several numbers of threads, and compare their bits."""

    def check(compute):
        threads, found = torch.get_num_threads(), []
        try:
            for count in (1, 2, 3, 3):
                torch.set_num_threads(count)
                found.append(compute())
        finally:
            torch.set_num_threads(threads)
        for other in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
        return found[0]

    return check
