"""Fixtures for the tests of the ops."""

import pytest
import torch


@pytest.fixture
def same_with_any_threads():
    """Function that checks that a computation gives the same bits with any number of threads."""

    def check(compute):
        threads, results = torch.get_num_threads(), []
        try:
            for count in (1, 2, 3, 3):
                torch.set_num_threads(count)
                results.append(compute())
        finally:
            torch.set_num_threads(threads)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
        return results[0]

    return check
