"""Fetch what comes next while what is here is worked on."""

import queue
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def read_ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Yield `items`, fetched by another thread that stays up to `depth` of them ahead."""
    fetched: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stop = threading.Event()

    def put(what: str, value: Any) -> None:
        while not stop.is_set():
            try:
                return fetched.put((what, value), timeout=0.1)
            except queue.Full:
                continue
        return None

    def fetch() -> None:
        try:
            for item in items:
                put("item", item)
                if stop.is_set():
                    return
            put("end", None)
        except BaseException as error:  # noqa: BLE001 - raised again where the items are used
            put("error", error)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    try:
        while True:
            what, value = fetched.get()
            if what == "end":
                return
            if what == "error":
                raise value
            yield value
    finally:
        stop.set()
        with suppress(KeyboardInterrupt):  # a second one: the thread is a daemon, let it be
            thread.join(timeout=5)
