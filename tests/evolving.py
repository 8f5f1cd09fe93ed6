"""A breeding run small enough for tests: random Llamas, two toy tasks of 24 items."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

TASKS = ("toy_sums", "toy_letters")
ITEMS = 24


def write_tasks(folder: Path) -> Path:
    """Write two multiple-choice tasks as local YAMLs over local JSONL."""
    folder.mkdir(parents=True)
    draw = random.Random(0)
    for task in TASKS:
        rows = []
        for i in range(ITEMS):
            choices = [str(draw.randrange(10, 99)) for _ in range(3)]
            row = {"prompt": f"{task} {i}=", "choices": choices, "answer": i % 3}
            rows.append(json.dumps(row))
        (folder / f"{task}.jsonl").write_text("\n".join(rows) + "\n")
        content = {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / f"{task}.jsonl")}},
            "output_type": "multiple_choice",
            "test_split": "test",
            "doc_to_text": "prompt",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "target_delimiter": "",
            "num_fewshot": 0,
            "metric_list": [{"metric": "acc"}],
            "metadata": {"version": 1.0},
        }
        (folder / f"{task}.yaml").write_text(yaml.safe_dump(content))
    return folder


def write_family(folder: Path) -> Path:
    """Write base, father and mother: 2-layer random Llamas in bfloat16, and tasks."""
    import torch

    from tests import tiny

    base = tiny.tiny_llama(folder / "base", 1, dtype=torch.bfloat16)
    tiny.nudged(base, folder / "father", 2, size=0.5)
    tiny.nudged(base, folder / "mother", 3, size=0.5)
    write_tasks(folder / "tasks")
    return folder


def content(family: Path, **changes: Any) -> dict[str, Any]:
    """Return the keys of an EVOLVE.yml over a family; changes replace some."""
    found: dict[str, Any] = {
        "father": str(family / "father"),
        "mother": str(family / "mother"),
        "base_model": str(family / "base"),
        "include_path": str(family / "tasks"),
        "tasks": list(TASKS),
        "heldout": 0.5,
        "blocks": 2,
        "probe_items": 4,
        "search": {"max_evaluations": 8, "top_k": 2, "seed": 3},
    }
    return {**found, **changes}


def run_here(keys: dict[str, Any], folder: str, options: dict[str, Any]) -> None:
    """Run a breeding run to its end in this process: what the tests kill."""
    import torch

    torch.set_num_threads(1)
    from mergekit_darwin.evolve.options import RunOptions
    from mergekit_darwin.evolve.reading import make_config
    from mergekit_darwin.evolve.run import evolve

    evolve(make_config(keys), Path(folder), RunOptions(quiet=True, **options))
