"""Work that threads do ahead of whoever takes its results, a bounded number of items ahead."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")

THREADS = min(4, os.cpu_count() or 1)
"""That draw tiles; each holds one of them."""


def in_order(work: Callable[[T], U], items: Iterable[T], threads: int = THREADS) -> Iterator[U]:
    """What becomes of each item, in order; as many are worked on at a time as there are threads."""
    rest, coming = iter(items), deque[Future[U]]()
    with ThreadPoolExecutor(threads, thread_name_prefix="samplat-draw") as pool:
        try:
            coming.extend(pool.submit(work, item) for item in islice(rest, threads))
            while coming:
                result = coming.popleft().result()
                coming.extend(pool.submit(work, item) for item in islice(rest, 1))
                yield result
        finally:
            for future in coming:
                future.cancel()


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a thread while the one before it is used."""
    end: Any = object()
    with ThreadPoolExecutor(1, thread_name_prefix="samplat-ahead") as maker:
        coming = maker.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = maker.submit(next, items, end)
            yield item
