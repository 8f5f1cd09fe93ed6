"""How work on pages is run: on coarse threads, and by numba once that pays.

torch splits every single operation over its threads and waits for all of them after
each; for chains of operations on cache-sized pages that costs more than it brings, and
most of the speed where other processes use the cores too. Here each worker runs whole
chains with one torch thread of its own. Results never depend on the number of workers.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

LOG = logging.getLogger("mergekit_darwin")
_BUSY = threading.Lock()
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@lru_cache(maxsize=4)
def _pool(workers: int) -> ThreadPoolExecutor:
    """Return a pool of so many threads, kept for the process."""
    return ThreadPoolExecutor(workers, thread_name_prefix="darwin")


if hasattr(os, "register_at_fork"):  # a forked child has the pool but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def new_like(tensor: torch.Tensor) -> torch.Tensor:
    """Return a contiguous tensor of the same shape, dtype and device, not yet written.

    On the CPU numpy allocates it, for it asks the kernel for huge pages and torch does
    not: the page faults of a fresh tensor cost more than merging into it.
    """
    if tensor.device.type != "cpu":
        return torch.empty_like(tensor, memory_format=torch.contiguous_format)
    words = np.empty(tensor.shape, dtype=_WORDS[tensor.element_size()])
    return torch.from_numpy(words).view(tensor.dtype)


def over_pages(pages: int, work: Callable[[Iterator[int]], None]) -> None:
    """Call work with an iterator of page numbers on each of torch's threads.

    The iterator is shared, so that every page in range(pages) goes to exactly one
    call. work must write its results to places of their own. While it runs, torch's
    own operations use one thread each, everywhere in the process. Raises what work
    raises.
    """
    shared = iter(range(pages))
    if pages <= 1:
        return work(shared)
    with _BUSY:
        workers = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            calls = min(workers, pages)
            jobs = [_pool(workers).submit(work, shared) for _ in range(calls - 1)]
            work(shared)
            for job in jobs:
                job.result()
        finally:
            torch.set_num_threads(workers)


class Work:
    """The elements that a process has worked on, and whether numba is worth its start.

    Getting numba ready takes the better part of a second even where its code lies on
    disk: in that time torch has merged or counted some hundred million elements.
    """

    def __init__(self, worth: int = 1 << 27):
        self.worth = worth
        self._done = 0

    def module(self, name: str, elements: int) -> ModuleType | None:
        """Add elements to the work; return a module of compiled code once it pays.

        None before that, and where numba cannot be had: torch gives the same bits.
        """
        self._done += elements
        return _module(name) if self._done >= self.worth else None


WORK = Work()


@lru_cache(maxsize=4)
def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"mergekit_darwin.kernel.{name}")
    except Exception as error:  # no numba for this Python, no place for its cache, ...
        reason = str(error).partition("\n")[0]
        LOG.info("torch does numba's work (%s), which cannot: %s", name, reason)
        return None


def kept_on_disk(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function for use by many threads; its machine code is kept.

    In the user's cache folder, not beside the package as numba would: that may be
    read-only, and what we write there would outlive an uninstallation. NUMBA_CACHE_DIR
    goes first. Raises RuntimeError where nothing can be written.
    """
    from numba import config as settings
    from numba import njit

    config: Any = settings

    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    before = config.CACHE_DIR
    config.CACHE_DIR = before or str(Path(home) / "mergekit-darwin")
    try:
        compiled: Callable[..., Any] = njit(nogil=True, cache=True)(function)
        return compiled
    finally:
        config.CACHE_DIR = before
