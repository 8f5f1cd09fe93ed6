"""numba, where it is to be had and once a process has enough work to be worth it."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

LOG = logging.getLogger("mergekit_darwin")


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
