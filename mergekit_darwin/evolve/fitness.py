"""What a model scores by lm-evaluation-harness, and whose fault it is if nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.evolve.tasks import Task, TaskSet
from mergekit_darwin.models.harness import quiet

# Of exceptions that carry no type of their own: torch's, CUDA's, file systems'.
_WORDS = (
    "out of memory",
    "can't allocate",
    "cuda",
    "cudnn",
    "nccl",
    "hip error",
    "no space left",
    "disk quota",
    "too many open files",
    "failed writing file",
    "tokenizer",
)
BOOTSTRAP = 200  # resamples, for metrics that are not a mean over samples


@dataclass(frozen=True)
class Result:
    """What a model scored: the weighted mean, every task, every sample.

    tasks and samples are as an Evaluation has them.
    """

    score: float
    tasks: dict[str, dict[str, float | int | None]]
    samples: dict[str, list[float]]


def evaluate(lm: Any, tasks: TaskSet) -> Result:
    """Return what a harness model (HFLM or another LM object) scores.

    Raises ValueError for a metric that is not finite.
    """
    import lm_eval

    plain_mean = all(_is_mean(task) for task in tasks.tasks)
    loaded = {task.name: task.loaded for task in tasks.tasks}
    with quiet():
        found = lm_eval.evaluate(
            lm=lm,
            task_dict={"tasks": loaded, "groups": {}, "group_map": {}},
            samples={task.name: list(task.samples) for task in tasks.tasks},
            bootstrap_iters=0 if plain_mean else BOOTSTRAP,
            log_samples=True,
            apply_chat_template=tasks.chat,
            fewshot_as_multiturn=tasks.multiturn,
        )
    if found is None:
        raise RuntimeError("lm-evaluation-harness gave no results on this rank")
    return _result(tasks, found)


def _is_mean(task: Task) -> bool:
    from lm_eval.api.metrics import mean

    return task.loaded.aggregation().get(task.metric.split(",")[0]) is mean


def _result(tasks: TaskSet, found: Mapping[str, Any]) -> Result:
    rows: dict[str, dict[str, float | int | None]] = {}
    samples: dict[str, list[float]] = {}
    parts = []
    for task in tasks.tasks:
        results = found["results"][task.name]
        key = _metric_key(results, task)
        value = float(results[key])
        if not math.isfinite(value):
            raise ValueError(f"{task.name}: {key} is {value}")
        row: dict[str, float | int | None] = {key: value}
        per_sample = _per_sample(found["samples"][task.name], key, task)
        if per_sample:
            stderr: float | None = standard_error(per_sample)
            samples[task.name] = per_sample
        else:
            name, _, rest = key.partition(",")
            said = results.get(f"{name}_stderr,{rest}")
            stderr = float(said) if isinstance(said, (int, float)) else None
        rows[task.name] = {**row, "stderr": stderr, "n": len(task.samples)}
        parts.append(task.weight * task.sign * value)
    return Result(math.fsum(parts), rows, samples)


def _metric_key(found: Mapping[str, Any], task: Task) -> str:
    if task.metric in found:
        return task.metric
    name = task.metric.split(",")[0]
    keys = [key for key in found if key.split(",")[0] == name]
    if "," in task.metric or not keys:
        raise DarwinError(
            f"tasks: {task.name!r} reported no metric {task.metric!r};"
            f" it has {', '.join(key for key in found if ',' in key)}."
        )
    return keys[0]


def _per_sample(
    samples: Sequence[Mapping[str, Any]], key: str, task: Task
) -> list[float]:
    """Return one value a sample, in order; empty where they are not numbers."""
    name, _, chosen = key.partition(",")
    rows = [row for row in samples if row.get("filter", chosen) == chosen]
    rows = sorted(rows, key=lambda row: row["doc_id"])
    values = [row.get(name) for row in rows]
    if not all(isinstance(value, (int, float)) for value in values):
        return []
    return [task.sign * float(value) for value in values if value is not None]


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean, with n - 1; 0 for fewer than two."""
    count = len(values)
    if count < 2:
        return 0.0
    mean = math.fsum(values) / count
    spread = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return math.sqrt(spread / count)


def combined_error(tasks: TaskSet, line: Evaluation) -> float | None:
    """Return the standard error of a line's score; None where a task's is unknown."""
    errors = [line.tasks[task.name]["stderr"] for task in tasks.tasks]
    if any(error is None for error in errors):
        return None
    weighted = [
        (task.weight * float(error or 0.0)) ** 2
        for task, error in zip(tasks.tasks, errors, strict=True)
    ]
    return math.sqrt(math.fsum(weighted))


def not_the_genome(error: BaseException) -> bool:
    """Return whether an error came from the machine or the files, whatever the genome.

    Disk, memory, devices, missing packages, unreadable files, and all that this package
    refuses in a sentence of its own. What is left (a score that is not a number, a
    method that cannot do with these models) is the candidate's.
    """
    from safetensors import SafetensorError

    outside = (DarwinError, OSError, MemoryError, ImportError, EOFError)
    for found in _chain(error):
        said = f"{type(found).__name__} {found}".lower()
        if isinstance(found, (*outside, SafetensorError)):
            return True
        if any(word in said for word in _WORDS):
            return True
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        hidden = seen.__suppress_context__
        seen = seen.__cause__ or (None if hidden else seen.__context__)
