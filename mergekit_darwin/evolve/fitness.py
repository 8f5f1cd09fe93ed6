"""Fitness: lm-evaluation-harness through its Python API, item by item.

Tasks are loaded once; a model is measured as an object, never through the harness's
response cache (that is not keyed by model: every candidate would get the first one's
answers).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mergekit_darwin.errors import DarwinError, nearest
from mergekit_darwin.harness import load_tasks, quiet

BOOTSTRAP = 200  # resamples, for metrics that are not a mean over items


class TaskLike(Protocol):
    """What a task setting has: name, weight, metric."""

    name: str
    weight: float
    metric: str


@dataclass(frozen=True)
class Question:
    """A prompt and its right completion, as the harness would put it to the model."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Paper:
    """One task of an exam: its key in the results, direction, weight, items."""

    name: str
    metric: str
    weight: float
    sign: float
    indices: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Exam:
    """Loaded tasks, and which of their items count. Nothing here is changed.

    digest names tasks, metrics, weights and items: 16 hex digits.
    """

    papers: tuple[Paper, ...]
    loaded: Mapping[str, Any]
    digest: str
    chat: bool = False
    multiturn: bool = True


@dataclass(frozen=True)
class Marks:
    """What a model scored: the weighted mean, every task, every item.

    tasks maps a task to {metric: value, "stderr": .., "n": ..}; items maps a task to
    one value an item (higher is better), empty where its metric is no mean of such.
    """

    score: float
    stderr: float | None
    tasks: dict[str, dict[str, float | int | None]]
    items: dict[str, list[float]] = field(default_factory=dict)


def split_indices(count: int, share: float) -> tuple[list[int], list[int]]:
    """Return the indices to search on and those held out, spread evenly.

    Item i is held out where floor((i + 1) share) > floor(i share).
    """
    held = [i for i in range(count) if int((i + 1) * share) > int(i * share)]
    apart = set(held)
    return [i for i in range(count) if i not in apart], held


def load_exams(
    tasks: Sequence[TaskLike],
    heldout: float | Sequence[TaskLike],
    *,
    include_path: Sequence[str] = (),
    limit: int | None = None,
    num_fewshot: int | None = None,
    chat: bool = False,
    multiturn: bool = True,
) -> tuple[Exam, Exam]:
    """Return the exam to search on and the held-out one.

    heldout is a share of every task's items, or tasks of its own. limit keeps the
    first items of each searched task. Raises DarwinError for an unknown task or metric.
    """
    names = [task.name for task in tasks]
    apart = [] if isinstance(heldout, float) else list(heldout)
    loaded = _load(names, include_path, num_fewshot)
    other = _load([task.name for task in apart], include_path, num_fewshot)
    search, held = [], []
    for task in tasks:
        for leaf, weight in _leaves(loaded, task):
            count = len(loaded["objects"][leaf].eval_docs)
            share = heldout if isinstance(heldout, float) else 0.0
            seen, unseen = split_indices(count, share)
            search.append(_paper(loaded, leaf, task.metric, weight, seen[:limit]))
            if share:
                held.append(_paper(loaded, leaf, task.metric, weight, unseen))
    for task in apart:
        for leaf, weight in _leaves(other, task):
            indices = range(len(other["objects"][leaf].eval_docs))
            held.append(_paper(other, leaf, task.metric, weight, indices))
    where = loaded if isinstance(heldout, float) else other
    return (
        _exam(search, loaded["objects"], chat, multiturn),
        _exam(held, where["objects"], chat, multiturn),
    )


def _load(
    names: Sequence[str], include_path: Sequence[str], shots: int | None
) -> dict[str, Any]:
    """Return {"objects": {leaf: task}, "leaves": {name: [leaf, ...]}}."""
    found = load_tasks(names, include_path=include_path, num_fewshot=shots)
    return {
        "objects": {
            leaf: task for tasks in found.values() for leaf, task in tasks.items()
        },
        "leaves": {name: list(tasks) for name, tasks in found.items()},
    }


def _leaves(loaded: Mapping[str, Any], task: TaskLike) -> list[tuple[str, float]]:
    """Return the leaf tasks of a task or group, the weight shared among them."""
    leaves = loaded["leaves"][task.name]
    return [(leaf, task.weight / len(leaves)) for leaf in leaves]


def _paper(
    loaded: Mapping[str, Any],
    leaf: str,
    metric: str,
    weight: float,
    indices: Sequence[int],
) -> Paper:
    if not indices:
        raise DarwinError(f"tasks: {leaf!r} has no items left for this part.")
    name = metric.split(",")[0]
    better = loaded["objects"][leaf].higher_is_better()
    if name not in better:
        raise DarwinError(
            f"tasks: {leaf!r} has no metric {name!r}.{nearest(name, better)}"
            f" It has {', '.join(better)}."
        )
    sign = 1.0 if better[name] else -1.0
    return Paper(leaf, metric, weight, sign, tuple(indices))


def _exam(
    papers: list[Paper], objects: Mapping[str, Any], chat: bool, multiturn: bool
) -> Exam:
    total = math.fsum(paper.weight for paper in papers)
    scaled = tuple(
        Paper(p.name, p.metric, p.weight / total, p.sign, p.indices) for p in papers
    )
    mark = hashlib.sha256(json.dumps([chat, multiturn]).encode())
    for paper in scaled:
        task = objects[paper.name]
        head = [paper.name, paper.metric, paper.weight, task.get_config("num_fewshot")]
        mark.update(json.dumps(head).encode())
        docs = task.eval_docs
        for index in paper.indices:
            mark.update(json.dumps(docs[index], default=str, sort_keys=True).encode())
    loaded = {paper.name: objects[paper.name] for paper in scaled}
    return Exam(scaled, loaded, mark.hexdigest()[:16], chat, multiturn)


def shared_items(left: Exam, right: Exam) -> int:
    """Return how many items of the second exam occur in the first as well."""
    seen = set(_documents(left))
    return sum(document in seen for document in _documents(right))


def _documents(exam: Exam) -> list[str]:
    return [
        json.dumps(exam.loaded[paper.name].eval_docs[i], default=str, sort_keys=True)
        for paper in exam.papers
        for i in paper.indices
    ]


def questions(exam: Exam, lm: Any, most: int) -> dict[str, list[Question]]:
    """Return up to `most` items a task as prompt and right completion, evenly spread.

    The prompts are the harness's own, few-shot examples and chat template included. lm
    is needed only where the exam uses a chat template.
    """
    found: dict[str, list[Question]] = {}
    for paper in exam.papers:
        task = exam.loaded[paper.name]
        step = max(1, len(paper.indices) // most)
        with quiet():
            task.build_all_requests(
                samples=list(paper.indices[::step][:most]), **_style(exam, lm)
            )
        groups: dict[int, list[Any]] = {}
        for instance in task.instances:
            groups.setdefault(instance.doc_id, []).append(instance)
        rows = [_question(task, group) for group in groups.values()]
        found[paper.name] = [row for row in rows if row is not None]
    return found


def _style(exam: Exam, lm: Any) -> dict[str, Any]:
    return {
        "apply_chat_template": exam.chat,
        "fewshot_as_multiturn": exam.multiturn,
        "chat_template": lm.apply_chat_template if exam.chat else None,
        "tokenizer_name": lm.tokenizer_name if exam.chat else "",
    }


def _question(task: Any, group: Sequence[Any]) -> Question | None:
    """Return one item's prompt and right completion; None where it has none."""
    doc, arguments = group[0].doc, group[0].args
    kind = task.OUTPUT_TYPE
    if kind == "loglikelihood_rolling":
        return Question("", str(arguments[0]))
    if kind == "loglikelihood":
        return Question(str(arguments[0]), str(arguments[1]))
    if kind == "multiple_choice":
        gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
        gold = gold[0] if isinstance(gold, list) else gold
        if isinstance(gold, str):
            choices = task.doc_to_choice(doc)
            gold = choices.index(gold) if gold in choices else -1
        if not isinstance(gold, int) or not 0 <= gold < len(group):
            return None
        prompt, completion = group[gold].args[:2]
        return Question(str(prompt), str(completion))
    gold = task.doc_to_target(doc)
    gold = gold[0] if isinstance(gold, (list, tuple)) and gold else gold
    delimiter = task.get_config("target_delimiter") or ""
    return Question(str(arguments[0]), f"{delimiter}{gold}") if gold else None


def measure(lm: Any, exam: Exam) -> Marks:
    """Return what a harness model (HFLM or another LM object) scores in an exam."""
    import lm_eval

    plain_mean = all(_is_mean(exam.loaded[p.name], p.metric) for p in exam.papers)
    with quiet():
        results = lm_eval.evaluate(
            lm=lm,
            task_dict={"tasks": dict(exam.loaded), "groups": {}, "group_map": {}},
            samples={paper.name: list(paper.indices) for paper in exam.papers},
            bootstrap_iters=0 if plain_mean else BOOTSTRAP,
            log_samples=True,
            apply_chat_template=exam.chat,
            fewshot_as_multiturn=exam.multiturn,
        )
    if results is None:
        raise RuntimeError("lm-evaluation-harness gave no results on this rank")
    return _marks(exam, results)


def _is_mean(task: Any, metric: str) -> bool:
    from lm_eval.api.metrics import mean

    return task.aggregation().get(metric.split(",")[0]) is mean


def _marks(exam: Exam, results: Mapping[str, Any]) -> Marks:
    tasks: dict[str, dict[str, float | int | None]] = {}
    items: dict[str, list[float]] = {}
    parts, errors = [], []
    for paper in exam.papers:
        key = _metric_key(results["results"][paper.name], paper)
        value = float(results["results"][paper.name][key])
        if not math.isfinite(value):
            raise ValueError(f"{paper.name}: {key} is {value}")
        per_item = _per_item(results["samples"][paper.name], key, paper)
        if per_item:
            stderr: float | None = standard_error(per_item)
            items[paper.name] = per_item
        else:
            name, _, rest = key.partition(",")
            found = results["results"][paper.name].get(f"{name}_stderr,{rest}")
            stderr = float(found) if isinstance(found, (int, float)) else None
        tasks[paper.name] = {key: value, "stderr": stderr, "n": len(paper.indices)}
        parts.append(paper.weight * paper.sign * value)
        errors.append(None if stderr is None else (paper.weight * stderr) ** 2)
    total = [part for part in errors if part is not None]
    whole = math.sqrt(math.fsum(total)) if len(total) == len(errors) else None
    return Marks(math.fsum(parts), whole, tasks, items)


def _metric_key(found: Mapping[str, Any], paper: Paper) -> str:
    if paper.metric in found:
        return paper.metric
    name = paper.metric.split(",")[0]
    keys = [key for key in found if key.split(",")[0] == name]
    if "," in paper.metric or not keys:
        raise DarwinError(
            f"tasks: {paper.name!r} reported no metric {paper.metric!r};"
            f" it has {', '.join(key for key in found if ',' in key)}."
        )
    return keys[0]


def _per_item(
    samples: Sequence[Mapping[str, Any]], key: str, paper: Paper
) -> list[float]:
    """Return one value an item, by item order; empty where they are not numbers."""
    name, _, chosen = key.partition(",")
    rows = [row for row in samples if row.get("filter", chosen) == chosen]
    rows = sorted(rows, key=lambda row: row["doc_id"])
    values = [row.get(name) for row in rows]
    if not all(isinstance(value, (int, float)) for value in values):
        return []
    return [paper.sign * float(value) for value in values if value is not None]


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean, with n - 1; 0 for fewer than two."""
    count = len(values)
    if count < 2:
        return 0.0
    mean = math.fsum(values) / count
    spread = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return math.sqrt(spread / count)
