"""What a consensus run found: scores on equal items, what was saved, what was promised.

Everything is computed from the samples and the plan; nothing asks a model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mergekit_darwin.delphi.compare import Difference, Mean, difference, mean_of
from mergekit_darwin.delphi.guarantee import Worst, worst_disagreement
from mergekit_darwin.delphi.samples import Sample, chosen, sampled
from mergekit_darwin.delphi.vote import Plan

FORMAT, VERSION = "mergekit-darwin/delphi", 1
GREEDY, ONE, FULL, STOPPED = "greedy", "one sample", "full vote", "stopped vote"
SENTENCE = (
    "A consensus score is a property of model and engine together;"
    " compare merges by their greedy scores."
)


@dataclass(frozen=True)
class Cost:
    """Samples an item: how many were used of N; tokens where they can be counted.

    stopped_at counts items by the number of samples they used. tokens_full is known
    only where all N were drawn.
    """

    full: int
    mean: float
    p90: int
    saved: float
    stopped_at: dict[int, int]
    tokens: int | None
    tokens_full: int | None


@dataclass(frozen=True)
class Agreement:
    """Stopped votes that are among the most frequent of all N; only with all drawn."""

    share: float
    disagreeing: tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """By the number of samples used: the vote's accuracy, its error, its agreement.

    agreement (with the full vote) is empty unless all samples were drawn.
    """

    samples: tuple[int, ...]
    accuracy: tuple[Mean, ...]
    agreement: tuple[float, ...]


@dataclass(frozen=True)
class TaskReport:
    """One task, or all of them pooled item by item."""

    items: int
    metric: str
    scores: dict[str, Mean]
    differences: tuple[Difference, ...]
    cost: Cost
    abstained: float
    agreement: Agreement | None
    curve: Curve
    gained: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """A whole run: whose, by which plan, with which promise, task by task."""

    model: str
    plan: Plan
    risk: float
    worst: Worst
    settings: Mapping[str, Any]
    tasks: dict[str, TaskReport]
    versions: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the content of report.json."""
        content = asdict(self)
        return {"format": FORMAT, "version": VERSION, "note": SENTENCE, **content}


@dataclass(frozen=True, eq=False)
class _Item:
    """One item: its samples in order, where the plan stops, and the texts it gives."""

    name: str
    sign: float
    greedy: Sample | None
    drawn: list[Sample]
    look: int
    stopped: Sample
    full: Sample | None

    def score(self, which: str) -> float | None:
        """Return one of the four scores, None where it was not measured."""
        if which == ONE:
            return math.fsum(s.correct for s in self.drawn) / len(self.drawn)
        sample = {GREEDY: self.greedy, FULL: self.full, STOPPED: self.stopped}[which]
        return None if sample is None else sample.correct


def make_report(
    model: str,
    plan: Plan,
    held: Mapping[str, Sequence[Sequence[Sample]]],
    *,
    metrics: Mapping[str, tuple[str, float]],
    risk: float,
) -> Report:
    """Return the report of a run.

    held has, by task, the samples of each item; metrics has, by task, the metric's name
    and 1, or -1 where lower is better. Several tasks are pooled as "all" too.
    """
    items = {
        task: [_item(samples, plan, metrics[task][1]) for samples in of_task]
        for task, of_task in held.items()
    }
    tasks = {
        task: _task(found, plan, metrics[task][0]) for task, found in items.items()
    }
    if len(items) > 1:
        pooled = [item for found in items.values() for item in found]
        tasks["all"] = _task(pooled, plan, "pooled over items")
    return Report(model, plan, risk, worst_disagreement(plan), {}, tasks)


def _item(samples: Sequence[Sample], plan: Plan, sign: float) -> _Item:
    voting = sampled(samples)
    look, stopped = chosen(samples, plan)
    whole = replace(plan, stage=plan.samples)
    return _Item(
        f"{samples[0].task}:{samples[0].item}",
        sign,
        next((s for s in samples if s.stage == 0), None),
        voting,
        look,
        stopped,
        chosen(samples, whole)[1] if len(voting) == plan.samples else None,
    )


def _task(items: Sequence[_Item], plan: Plan, metric: str) -> TaskReport:
    shadow = all(len(item.drawn) == plan.samples for item in items)
    # One sample an item: as many of each as all have, or stopping would choose them.
    even = min(len(item.drawn) for item in items)
    level = [replace(item, drawn=item.drawn[:even]) for item in items]
    kinds = [GREEDY, ONE, *([FULL] if shadow else []), STOPPED]
    columns = {kind: [item.score(kind) for item in level] for kind in kinds}
    values = {
        kind: [value for value in column if value is not None]
        for kind, column in columns.items()
        if None not in column
    }
    pairs = [(STOPPED, GREEDY), (STOPPED, ONE), (FULL, GREEDY), (STOPPED, FULL)]
    signs = [item.sign for item in items]
    differences = tuple(
        difference(left, right, values, signs)
        for left, right in pairs
        if left in values and right in values
    )
    drawn = [sample for item in items for sample in item.drawn]
    return TaskReport(
        items=len(items),
        metric=metric,
        scores={kind: mean_of(column) for kind, column in values.items()},
        differences=differences,
        cost=_cost(items, plan, shadow),
        abstained=sum(sample.answer is None for sample in drawn) / len(drawn),
        agreement=_agreement(items) if shadow else None,
        curve=_curve(items, plan, shadow),
        gained=_moved(items, 1.0),
        lost=_moved(items, -1.0),
    )


def _cost(items: Sequence[_Item], plan: Plan, shadow: bool) -> Cost:
    looks = sorted(item.look for item in items)
    mean = math.fsum(looks) / len(looks)
    used = [sample for item in items for sample in item.drawn[: item.look]]
    return Cost(
        full=plan.samples,
        mean=mean,
        p90=looks[math.ceil(0.9 * len(looks)) - 1],
        saved=1.0 - mean / plan.samples,
        stopped_at=dict(sorted(Counter(looks).items())),
        tokens=_tokens(used),
        tokens_full=_tokens([s for item in items for s in item.drawn])
        if shadow
        else None,
    )


def _tokens(samples: Sequence[Sample]) -> int | None:
    counts = [sample.tokens for sample in samples]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _agrees(item: _Item, answer: str | None) -> bool:
    """Return whether an answer is among the most frequent of all its samples."""
    votes = Counter(s.answer for s in item.drawn if s.answer is not None)
    return not votes or (answer is not None and votes[answer] == max(votes.values()))


def _agreement(items: Sequence[_Item]) -> Agreement:
    apart = tuple(i.name for i in items if not _agrees(i, i.stopped.answer))
    return Agreement(1.0 - len(apart) / len(items), apart)


def _moved(items: Sequence[_Item], sign: float) -> tuple[str, ...]:
    """Return the items on which the stopped vote beats greedy; by sign -1, loses."""
    return tuple(
        item.name
        for item in items
        if item.greedy is not None
        and sign * item.sign * (item.stopped.correct - item.greedy.correct) > 0.0
    )


def _curve(items: Sequence[_Item], plan: Plan, shadow: bool) -> Curve:
    """Return accuracy and agreement by samples: of each count, or only of the looks."""
    counts = tuple(range(1, plan.samples + 1)) if shadow else plan.looks
    accuracy, agreement = [], []
    for count in counts:
        part = replace(plan, samples=count, stage=count)
        votes = [chosen(item.drawn[:count], part)[1] for item in items]
        accuracy.append(mean_of([sample.correct for sample in votes]))
        if shadow:
            pairs = zip(items, votes, strict=True)
            agreed = sum(_agrees(item, vote.answer) for item, vote in pairs)
            agreement.append(agreed / len(items))
    return Curve(counts, tuple(accuracy), tuple(agreement))
