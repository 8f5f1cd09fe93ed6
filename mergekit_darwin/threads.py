"""Coarse threads for page-sized work: one page, one core, no waiting in between.

torch splits every single operation over its threads and waits for all of them after
each; for chains of operations on cache-sized pages that costs more than it brings, and
most of the speed where other processes use the cores too. Here each worker runs whole
chains with one torch thread of its own. Results never depend on the number of workers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch


@lru_cache(maxsize=4)
def _pool(workers: int) -> ThreadPoolExecutor:
    """Return a pool whose threads each use one torch thread; kept for the process."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="darwin")
    started = threading.Barrier(workers)

    def start() -> None:
        torch.set_num_threads(1)  # of this thread; the default is set back below
        started.wait()

    for job in [pool.submit(start) for _ in range(workers)]:
        job.result()
    torch.set_num_threads(workers)
    return pool


if hasattr(os, "register_at_fork"):  # a forked child has the pool but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def over_pages(pages: int, work: Callable[[Iterator[int]], None]) -> None:
    """Call work with an iterator of page numbers on each of torch's threads.

    The iterator is shared, so that every page in range(pages) goes to exactly one
    call. work must write its results to places of their own. Raises what work raises.
    """
    if pages == 0:
        return
    shared = iter(range(pages))
    pool = _pool(torch.get_num_threads())
    calls = min(torch.get_num_threads(), pages)
    jobs = [pool.submit(work, shared) for _ in range(calls)]
    for job in jobs:
        job.result()
