"""A first EVOLVE.yml, and lm-evaluation-harness tasks made of plain JSONL items."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.files import write_whole

Kind = Literal["choices", "completion"]
_KEYS: dict[Kind, tuple[str, ...]] = {
    "choices": ("question", "choices", "answer"),
    "completion": ("prompt", "completion"),
}

_CONFIG = """\
# A breeding run:  mergekit-darwin-evolve {name} --storage-path RUN
# Try it first:    mergekit-darwin-evolve {name} --check
# Paths are relative to this file's folder; other names are models on the hub.
father: {father}
mother: {mother}
{base}
dtype: bfloat16            # of the merge; parents are measured in their own

# Tasks of lm-evaluation-harness: what the child is to be good at. They are searched
# on, so their items must not be those of a benchmark that you report.
include_path: {tasks}
tasks:
{names}
heldout: 0.5               # share of each task's items kept for the final comparison,
                           # or a list of other tasks
# limit: 200               # at most so many items of a task in each evaluation
# num_fewshot: 0
# apply_chat_template: false

# What else a merge can be told; the defaults are good to begin with.
# operator: dare_ties      # or slerp, linear: blends of the whole parents
# genes: extended          # lambda is searched too where there is a base
# mri: attribution         # how the scan is read: published, relative, attribution

# At the end the child and the parents' mean can be refitted to what both parents'
# layers do; the better on the search items becomes the final model.
# refit_texts: texts       # folder of .jsonl files of {{"prompt", "completion"}}, one a
                           # skill: a task's training split, never held-out items

search:
  seed: 1
  max_evaluations: 48      # real merges, each measured on all searched items
  patience: 5              # stop after so many generations without a better score
  # max_time: 3600         # seconds
"""


def write_config(
    out: Path, father: str, mother: str, base: str | None, items: Sequence[str]
) -> list[Path]:
    """Write an EVOLVE.yml and one task file an items file; return what was written.

    An items file is JSONL: {"prompt", "completion"}, scored by exact match, or
    {"question", "choices", "answer"}, answer being an index or the right choice's text.
    Raises DarwinError for an item that is neither, and where a file is there already.
    """
    folder = out.parent / "tasks"
    tasks = {_task_name(file): file for file in map(Path, items)}
    if len(tasks) < len(items):
        raise DarwinError("--items must have different names: each is a task.")
    made = {folder / f"{name}.yaml": _task(name, file) for name, file in tasks.items()}
    for path in (out, *made):
        if path.exists():
            raise DarwinError(f"{path} is there already; --init overwrites nothing.")
    names = [_entry(task) for task in made.values()]
    names = names or ["  - my_task   # write it first"]
    base_line = (
        f"base_model: {_quoted(base)}"
        if base
        else ("# base_model: their common ancestor; with it far more can be gained")
    )
    text = _CONFIG.format(
        name=out.name,
        father=_quoted(father),
        mother=_quoted(mother),
        base=base_line,
        tasks=folder.name,
        names="\n".join(names),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in made.items():
        write_whole(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    write_whole(out, text)
    return [out, *made]


def _entry(task: dict[str, Any]) -> str:
    """Return a task's line of the config."""
    metric = task["metric_list"][0]["metric"]
    name = task["task"]
    return (
        f"  - {name}" if metric == "acc" else f"  - {{name: {name}, metric: {metric}}}"
    )


def _quoted(value: str) -> str:
    """Return a model as YAML text, a path made absolute."""
    model = os.path.abspath(value) if os.path.exists(value) else value
    return yaml.safe_dump(model, allow_unicode=True, width=10**6).splitlines()[0]


def _task_name(file: Path) -> str:
    return re.sub(r"\W+", "_", file.stem).strip("_").lower() or "task"


def _task(name: str, file: Path) -> dict[str, Any]:
    """Return the harness's YAML of a task over a JSONL file."""
    head: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": os.path.abspath(file)}},
        "test_split": "test",
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
    }
    kind, by_index = _kind_of(file)
    if kind == "choices":
        return head | {
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "choices",
            "doc_to_target": "answer" if by_index else "{{choices.index(answer)}}",
            "target_delimiter": " ",
            "metric_list": [{"metric": "acc"}],
        }
    return head | {
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{completion}}",
        "target_delimiter": "",
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 64},
        "metric_list": [{"metric": "exact_match", "ignore_case": True}],
    }


def _kind_of(file: Path) -> tuple[Kind, bool]:
    """Return what the items of a file are, and whether answers are indices."""
    rows: list[dict[str, Any]] = []
    kind: Kind | None = None
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        row, where = _object(line), f"{file}, line {number}"
        fits = [key for key, names in _KEYS.items() if row and set(names) <= row.keys()]
        if row is None or not fits or kind not in (None, fits[0]):
            raise DarwinError(
                f"{where}: an item must have prompt and completion, or question,"
                " choices and answer, the same in the whole file."
            )
        kind = fits[0]
        if kind == "choices":
            _check_answer(row, where)
        rows.append(row)
    if kind is None:
        raise DarwinError(f"{file} must hold items, one JSON object a line.")
    kinds = {isinstance(row.get("answer"), int) for row in rows}
    if len(kinds) > 1:
        raise DarwinError(f"{file}: answers must be all indices or all texts.")
    return kind, kinds == {True}


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DarwinError(f"--items: cannot read {file} ({error}).") from None


def _object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _check_answer(row: dict[str, Any], where: str) -> None:
    choices, answer = row["choices"], row["answer"]
    if not isinstance(choices, list) or len(choices) < 2:
        raise DarwinError(f"{where}: choices must be a list of at least two.")
    index = isinstance(answer, int) and not isinstance(answer, bool)
    if not (0 <= answer < len(choices) if index else answer in choices):
        raise DarwinError(
            f"{where}: answer must be one of the choices or its index from 0; got"
            f" {answer!r}."
        )
