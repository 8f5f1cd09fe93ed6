"""A first EVOLVE.yml, and lm-evaluation-harness tasks made of plain JSONL items."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from mergekit_darwin.errors import DarwinError, about, plain
from mergekit_darwin.files import parse_json, read_text, write_whole

Kind = Literal["choices", "completion"]
_KEYS: dict[Kind, tuple[str, ...]] = {
    "choices": ("question", "choices", "answer"),
    "completion": ("prompt", "completion"),
}

_NUMBERS = {  # which the harness's templates show as they stand
    **dict.fromkeys(("prompt", "completion", "question"), (str, int, float)),
    "answer": (str, int),
}


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
        if os.path.lexists(path):
            raise DarwinError(f"{path} is there already; --init overwrites nothing.")
    names = [_entry(task) for task in made.values()]
    names = names or ["  - my_task   # write it first"]
    base_line = (
        f"base_model: {_quoted(base)}"
        if base
        else ("# base_model: their common ancestor; with it far more can be gained")
    )
    template = resources.files("mergekit_darwin") / "data" / "evolve.yml"
    text = template.read_text(encoding="utf-8").format(
        name=plain(out.name),
        father=_quoted(father),
        mother=_quoted(mother),
        base=base_line,
        tasks=folder.name,
        names="\n".join(names),
    )
    with about(f"{folder} must be a folder that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
    for path, content in made.items():
        write_whole(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    write_whole(out, text)
    return [out, *made]


def _entry(task: dict[str, Any]) -> str:
    """Return a task's line of the config."""
    metric = task["metric_list"][0]["metric"]
    name = _scalar(task["task"])
    return (
        f"  - {name}" if metric == "acc" else f"  - {{name: {name}, metric: {metric}}}"
    )


def _quoted(value: str) -> str:
    """Return a model as YAML text, a path made absolute.

    Raises DarwinError for a path at which nothing is.
    """
    if os.path.exists(value):
        return _scalar(os.path.abspath(value))
    if not value.strip() or value.startswith((".", "~", os.sep)):
        raise DarwinError(
            f"--init takes models that are there, or names on the hub; got {value!r}."
        )
    return _scalar(value)


def _scalar(text: str) -> str:
    """Return a text as YAML reads it again, on one line whatever is in it."""
    style = '"' if "\n" in text or "\r" in text else None
    shown = yaml.safe_dump(
        text, allow_unicode=True, width=math.inf, default_style=style
    )
    return str(shown).splitlines()[0]


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
    items = _read_items(file)
    if items.kind == "choices":
        target = "answer" if items.by_index else "{{choices.index(answer)}}"
        return head | {
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "choices",
            "doc_to_target": target,
            "target_delimiter": " ",
            "metric_list": [{"metric": "acc"}],
        }
    until: dict[str, Any] = {"until": ["\n"], "do_sample": False}
    until["max_gen_toks"] = max(64, items.longest)  # a token is a byte or more
    return head | {
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{completion}}",
        "target_delimiter": "",
        "generation_kwargs": until,
        "metric_list": [{"metric": "exact_match", "ignore_case": True}],
    }


@dataclass(frozen=True)
class _Items:
    """What an items file holds; longest is the most bytes of a completion."""

    kind: Kind
    by_index: bool
    longest: int


def _read_items(file: Path) -> _Items:
    """Return what a file's items are. Raises DarwinError for the first that is none."""
    kinds: set[Kind] = set()
    shapes: dict[str, type] = {}
    longest = 0
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        row = _object(line, where)
        fits = [key for key, names in _KEYS.items() if set(names) <= row.keys()]
        kinds |= set(fits[:1])
        if not fits or len(kinds) > 1:
            raise DarwinError(
                f"{where}: an item must have prompt and completion, or question,"
                " choices and answer, the same in the whole file."
            )
        for name in _KEYS[fits[0]]:
            _check_value(name, row[name], shapes, where)
        if fits[0] == "choices":
            _check_answer(row, where)
        longest = max(longest, len(str(row.get("completion", "")).encode()))
    if not kinds:
        raise DarwinError(f"{file} must hold items, one JSON object a line.")
    return _Items(kinds.pop(), shapes.get("answer") is int, longest)


def _lines(file: Path) -> list[str]:
    return read_text(file, f"--items: cannot read {file}").split("\n")


def _object(line: str, where: str) -> dict[str, Any]:
    with about(f"{where} must be an item, one JSON object"):
        row = parse_json(line)
        if not isinstance(row, dict):
            raise ValueError(f"it is {type(row).__name__}")
    return row


def _check_value(name: str, value: Any, shapes: dict[str, type], where: str) -> None:
    """Refuse what the harness would ask or score wrongly: it makes text of anything.

    shapes are the types found so far: a column of the harness's table has one.
    """
    texts = value if name == "choices" and isinstance(value, list) else [value]
    allowed = _NUMBERS.get(name, (str,))
    for text in texts:
        odd = isinstance(text, float) and not math.isfinite(text)
        if type(text) not in allowed or text == "" or odd:
            rest = " or a number" * (len(allowed) > 1)
            raise DarwinError(
                f"{where}: {name} must be a text of some length{rest}; got {text!r}."
            )
        if shapes.setdefault(name, type(text)) is not type(text):
            raise DarwinError(
                f"{where}: {name} must be of one kind in the whole file, not"
                f" {shapes[name].__name__} before and now {text!r}."
            )
        with about(f"{where}: {name} must be text"):
            str(text).encode()
    if name == "completion" and "\n" in str(value):
        raise DarwinError(
            f"{where}: completion must be one line, as answers end with the line; got"
            f" {value!r}. Write the task's YAML by hand for longer ones."
        )


def _check_answer(row: dict[str, Any], where: str) -> None:
    choices, answer = row["choices"], row["answer"]
    if not isinstance(choices, list) or len(choices) < 2:
        raise DarwinError(f"{where}: choices must be a list of at least two.")
    if len(set(choices)) < len(choices):
        raise DarwinError(f"{where}: choices must differ from each other.")
    index = isinstance(answer, int)
    if not (0 <= answer < len(choices) if index else answer in choices):
        raise DarwinError(
            f"{where}: answer must be one of the choices or its index from 0; got"
            f" {answer!r}."
        )
