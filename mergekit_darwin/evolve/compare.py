"""The honest comparison: held-out scores, standard errors, paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mergekit_darwin.evolve.fitness import standard_error
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.evolve.tasks import Task, TaskSet


@dataclass(frozen=True)
class Paired:
    """Child minus other on the same items: difference, its error, two-sided p.

    wins and losses count items on which one of the two is better (McNemar's cells).
    """

    other: str
    difference: float
    stderr: float
    p: float
    wins: int
    losses: int


@dataclass(frozen=True)
class Comparison:
    """Held-out lines, the child's last, and what it is to the best of the others."""

    rows: tuple[Evaluation, ...]
    tasks: TaskSet
    parent: Paired | None
    uniform: Paired | None

    @property
    def child(self) -> Evaluation:
        """The child's line: what the final model scored."""
        return self.rows[-1]


def make_comparison(
    lines: Sequence[Evaluation], uniform: Sequence[str], tasks: TaskSet
) -> Comparison:
    """Return the table and both paired tests; uniform names the uniform merges."""
    *others, child = lines
    parent = better(others, ("father", "mother"))
    merge = better(others, uniform)
    return Comparison(
        rows=tuple(lines),
        tasks=tasks,
        parent=paired(child, parent, tasks) if parent else None,
        uniform=paired(child, merge, tasks) if merge else None,
    )


def paired(child: Evaluation, other: Evaluation, tasks: TaskSet) -> Paired | None:
    """Return the paired test of two lines, None without samples of both.

    z test on the weighted mean of per-item differences; its variance is the sum over
    tasks of weight^2 var / n. Normal approximation: fit for hundreds of items.
    """
    mean, variance, flat = 0.0, 0.0, []
    for task in tasks.tasks:
        left, right = child.samples.get(task.name), other.samples.get(task.name)
        if not left or not right or len(left) != len(right):
            return None
        values = [a - b for a, b in zip(left, right, strict=True)]
        mean += task.weight * math.fsum(values) / len(values)
        variance += (task.weight * standard_error(values)) ** 2
        flat += values
    error = math.sqrt(variance)
    z = abs(mean) / error if error > 0.0 else (math.inf if mean else 0.0)
    return Paired(
        other=other.name,
        difference=mean,
        stderr=error,
        p=math.erfc(z / math.sqrt(2.0)),
        wins=sum(value > 0 for value in flat),
        losses=sum(value < 0 for value in flat),
    )


def better(rows: Sequence[Evaluation], names: Sequence[str]) -> Evaluation | None:
    """Return the best scored line among some names, None if none was measured."""
    known = [row for row in rows if row.name in names and row.score is not None]
    return max(known, key=lambda row: row.score or 0.0, default=None)


@dataclass(frozen=True)
class Room:
    """The way that keeps most of both parents, and what it keeps of each.

    Shares of what a parent has over the other on the tasks that are clearly his or
    hers; above 1 where the way is better than that parent.
    """

    way: str
    father: float
    mother: float

    @property
    def least(self) -> float:
        """The smaller share."""
        return min(self.father, self.mother)


def room(table: Comparison) -> Room | None:
    """Return the way with the largest smaller share, None where a parent has no task.

    A task is a parent's whose held-out score is higher by more than two standard errors
    of the difference; tasks count by their weights.
    """
    lines = {row.name: row for row in table.rows if row.score is not None}
    father, mother = lines.pop("father", None), lines.pop("mother", None)
    if father is None or mother is None or not lines:
        return None
    his = [t for t in table.tasks.tasks if _is_clear(t, father, mother)]
    hers = [t for t in table.tasks.tasks if _is_clear(t, mother, father)]
    if not his or not hers:
        return None
    ways = [
        Room(name, _kept(row, father, mother, his), _kept(row, mother, father, hers))
        for name, row in lines.items()
    ]
    return max(ways, key=lambda way: way.least)


def _is_clear(task: Task, better: Evaluation, worse: Evaluation) -> bool:
    errors = [float(row.tasks[task.name]["stderr"] or 0.0) for row in (better, worse)]
    lead = task.sign * (better.value(task.name) - worse.value(task.name))
    return lead > 2.0 * math.hypot(*errors)


def _kept(
    row: Evaluation, owner: Evaluation, other: Evaluation, tasks: Sequence[Task]
) -> float:
    """Return the share of the owner's lead over the other that a row has."""

    def lead(line: Evaluation) -> float:
        return math.fsum(
            task.weight * task.sign * (line.value(task.name) - other.value(task.name))
            for task in tasks
        )

    return lead(row) / lead(owner)


def verdict(test: Paired | None) -> str:
    """Return one honest clause about a paired test."""
    if test is None:
        return "cannot be compared item by item"
    if test.difference == 0.0:
        return "no difference at all on these items"
    size = f"{test.difference:+.3f} ± {test.stderr:.3f} (p = {test.p:.2g})"
    if abs(test.difference) < 2.0 * test.stderr:
        return f"{size}: no difference that these items could show"
    word = "above" if test.difference > 0 else "BELOW"
    if test.stderr == 0.0:
        return f"{size}: {word} it by the same on every item"
    times = abs(test.difference) / test.stderr
    return f"{size}: {word} it by {times:.1f} standard errors"
