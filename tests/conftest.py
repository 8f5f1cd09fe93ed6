"""Offline, quiet, and one small family of random models for the whole session."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")
# Ray would turn tokens on by itself for some of its processes, not for others, and
# write one into the user's home folder: one mode and one token for all of them.
if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

import pytest


@pytest.fixture(autouse=True)
def fresh_logging() -> None:
    """Undo what a command run in this process by another test set for logging."""
    logging.getLogger().setLevel(logging.WARNING)
    for name in ("mergekit", "mergekit_darwin"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Run a module's torch on one thread: tiny models only lose by more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trio(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of a base and two siblings of it: 4-layer bfloat16 Llamas."""
    import torch

    import mergekit_darwin
    from tests.tiny import nudged, tiny_llama

    mergekit_darwin.register()
    root: Path = tmp_path_factory.mktemp("trio")
    tiny_llama(root / "base", 1, layers=4, hidden=64, dtype=torch.bfloat16)
    nudged(root / "base", root / "father", 2)
    nudged(root / "base", root / "mother", 3)
    return {name: str(root / name) for name in ("base", "father", "mother")}
