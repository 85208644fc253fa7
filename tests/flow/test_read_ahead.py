"""Items fetched in advance by another thread."""

import threading
import time

import pytest

from flowmatch.flow.read_ahead import read_ahead


def test_read_ahead_keeps_order_and_is_bounded():
    taken = []

    def source():
        for i in range(100):
            taken.append(i)
            yield i

    ahead = read_ahead(source(), 3)
    assert next(ahead) == 0
    time.sleep(0.3)
    assert len(taken) <= 6
    assert list(ahead) == list(range(1, 100))


def test_read_ahead_passes_errors_on_and_ends_its_thread():
    def source():
        yield 1
        raise ValueError("broken")

    ahead = read_ahead(source(), 3)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)
    endless = read_ahead(iter(int, 1), 2)
    next(endless)
    threads = threading.active_count()
    endless.close()
    assert threading.active_count() < threads
