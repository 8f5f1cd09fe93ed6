"""Reads the item files for lm-evaluation-harness, from any current directory."""

import json
from pathlib import Path
from typing import Any

import datasets

ITEMS = Path(__file__).resolve().parent.parent / "items"


def load_items(skill: str, split: str, **_: Any) -> dict[str, datasets.Dataset]:
    """Return one item file as the test split, in memory: no cache that could go stale.

    Unused keywords are what the harness passes along as metadata.
    """
    lines = (ITEMS / skill / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}
