"""Which samples count: loaded tasks, searched and held out, and probes made of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mergekit_darwin.errors import DarwinError, about, nearest
from mergekit_darwin.evolve.config import EvolveConfig, TaskSetting
from mergekit_darwin.evolve.log import Part
from mergekit_darwin.models.harness import load_tasks, quiet
from mergekit_darwin.scan.probes import ProbeItem


@dataclass(frozen=True, eq=False)
class Task:
    """One task of the harness and the samples of it that count, by their indices.

    sign is -1 where a lower metric is better; weights of a set sum to 1.
    """

    name: str
    metric: str
    weight: float
    sign: float
    samples: tuple[int, ...]
    loaded: Any

    @property
    def documents(self) -> list[str]:
        """Its samples as canonical JSON."""
        docs = self.loaded.eval_docs
        return [json.dumps(docs[i], default=str, sort_keys=True) for i in self.samples]


@dataclass(frozen=True, eq=False)
class TaskSet:
    """Loaded tasks. Nothing here is changed.

    digest names tasks, metrics, weights and samples: 16 hex digits.
    """

    tasks: tuple[Task, ...]
    digest: str
    chat: bool = False
    multiturn: bool = True

    @property
    def count(self) -> int:
        """The number of its samples."""
        return sum(len(task.samples) for task in self.tasks)


def split_indices(count: int, share: float) -> tuple[list[int], list[int]]:
    """Return the indices to search on and those held out, spread evenly.

    Item i is held out where floor((i + 1) share) > floor(i share).
    """
    held = [i for i in range(count) if int((i + 1) * share) > int(i * share)]
    apart = set(held)
    return [i for i in range(count) if i not in apart], held


def load_task_sets(config: EvolveConfig) -> dict[Part, TaskSet]:
    """Return the tasks to search on and the held-out ones.

    limit keeps the first samples of each searched task. Raises DarwinError for an
    unknown task or metric.
    """
    apart = config.heldout if isinstance(config.heldout, list) else []
    share = config.heldout if isinstance(config.heldout, float) else 0.0
    search, held = [], []
    for setting, weight, loaded in _leaves(config, config.tasks):
        seen, unseen = split_indices(len(loaded.eval_docs), share)
        search.append(_task(setting, weight, loaded, seen[: config.limit]))
        if share:
            held.append(_task(setting, weight, loaded, unseen))
    for setting, weight, loaded in _leaves(config, apart):
        every = range(len(loaded.eval_docs))
        held.append(_task(setting, weight, loaded, every))
    return {"search": _task_set(search, config), "heldout": _task_set(held, config)}


def _leaves(
    config: EvolveConfig, settings: Sequence[TaskSetting]
) -> Iterator[tuple[TaskSetting, float, Any]]:
    """Yield the leaf tasks of tasks and groups, a group's weight shared among them."""
    found = load_tasks(
        [setting.name for setting in settings],
        include_path=config.include_path,
        num_fewshot=config.num_fewshot,
    )
    seen: dict[str, str] = {}
    for setting in settings:
        leaves = found[setting.name]
        for name, loaded in leaves.items():
            if seen.setdefault(name, setting.name) != setting.name:
                raise DarwinError(
                    f"tasks: {name!r} must count once; it is in {seen[name]!r} and in"
                    f" {setting.name!r}. Name one of them."
                )
            named = setting.model_copy(update={"name": name})
            yield named, setting.weight / len(leaves), loaded


def _task(
    setting: TaskSetting, weight: float, loaded: Any, samples: Sequence[int]
) -> Task:
    if not samples:
        raise DarwinError(f"tasks: {setting.name!r} has no items left for this part.")
    name = setting.metric.split(",")[0]
    better = loaded.higher_is_better()
    if name not in better:
        raise DarwinError(
            f"tasks: {setting.name!r} has no metric {name!r}.{nearest(name, better)}"
            f" It has {', '.join(better)}."
        )
    with about(f"tasks: every item of {setting.name!r} must have a right choice"):
        _check_choices(loaded, samples)
    sign = 1.0 if better[name] else -1.0
    return Task(setting.name, setting.metric, weight, sign, tuple(samples), loaded)


def _check_choices(task: Any, samples: Sequence[int]) -> None:
    """Raise ValueError for an item without a right choice: it could only be wrong."""
    for i in samples if task.OUTPUT_TYPE == "multiple_choice" else ():
        doc = task.eval_docs[i]
        choices, gold = task.doc_to_choice(doc), gold_of(task, doc)
        if not 0 <= gold < len(choices):
            raise ValueError(f"the answer to item {i} is none of {choices}")


def _task_set(tasks: Sequence[Task], config: EvolveConfig) -> TaskSet:
    total = math.fsum(task.weight for task in tasks)
    scaled = tuple(replace(task, weight=task.weight / total) for task in tasks)
    chat, multiturn = config.apply_chat_template, config.fewshot_as_multiturn
    mark = hashlib.sha256(json.dumps([chat, multiturn]).encode())
    for task in scaled:
        shots = task.loaded.get_config("num_fewshot")
        head = [task.name, task.metric, task.weight, shots]
        mark.update(json.dumps(head).encode())
        mark.update("".join(task.documents).encode())
    return TaskSet(scaled, mark.hexdigest()[:16], chat, multiturn)


def shared_samples(left: TaskSet, right: TaskSet) -> int:
    """Return how many samples of the second set occur in the first as well."""
    seen = {document for task in left.tasks for document in task.documents}
    return sum(row in seen for task in right.tasks for row in task.documents)


def probe_items(tasks: TaskSet, lm: Any, most: int) -> dict[str, tuple[ProbeItem, ...]]:
    """Return up to `most` samples a task as prompt and right completion, spread evenly.

    The prompts are the harness's own, few-shot examples and chat template included. lm
    is needed only where the set uses a chat template.
    """
    found = {}
    for task in tasks.tasks:
        step = max(1, len(task.samples) // most)
        with quiet():
            task.loaded.build_all_requests(
                samples=list(task.samples[::step][:most]), **_style(tasks, lm)
            )
        groups: dict[int, list[Any]] = {}
        for instance in task.loaded.instances:
            groups.setdefault(instance.doc_id, []).append(instance)
        rows = [_probe_item(task.loaded, group) for group in groups.values()]
        found[task.name] = tuple(row for row in rows if row is not None)
    return found


def prompts(tasks: TaskSet) -> frozenset[str]:
    """Return what the samples of a set ask, without few-shot examples or chat."""
    found = set()
    for task in tasks.tasks:
        docs = task.loaded.eval_docs
        asked = [task.loaded.doc_to_text(docs[i]) for i in task.samples]
        found |= {text.strip() for text in asked if isinstance(text, str)}
    return frozenset(found - {""})


def _style(tasks: TaskSet, lm: Any) -> dict[str, Any]:
    return {
        "apply_chat_template": tasks.chat,
        "fewshot_as_multiturn": tasks.multiturn,
        "chat_template": lm.apply_chat_template if tasks.chat else None,
        "tokenizer_name": lm.tokenizer_name if tasks.chat else "",
    }


def _probe_item(task: Any, group: Sequence[Any]) -> ProbeItem | None:
    """Return one sample's prompt and right completion; None where it has none."""
    doc, arguments = group[0].doc, group[0].args
    kind = task.OUTPUT_TYPE
    if kind == "loglikelihood_rolling":
        return ProbeItem("", str(arguments[0]))
    if kind == "loglikelihood":
        return ProbeItem(str(arguments[0]), str(arguments[1]))
    if kind == "multiple_choice":
        gold = gold_of(task, doc)
        if not 0 <= gold < len(group):
            return None
        prompt, completion = group[gold].args[:2]
        return ProbeItem(str(prompt), str(completion))
    target = task.doc_to_target(doc)
    target = target[0] if isinstance(target, (list, tuple)) and target else target
    delimiter = task.get_config("target_delimiter") or ""
    return ProbeItem(str(arguments[0]), f"{delimiter}{target}") if target else None


def gold_of(task: Any, doc: Any) -> int:
    """Return the index of the right choice, -1 where there is none."""
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    gold = gold[0] if isinstance(gold, list) else gold
    if isinstance(gold, str):
        choices = task.doc_to_choice(doc)
        return choices.index(gold) if gold in choices else -1
    return gold if isinstance(gold, int) else -1
