"""The honest comparison: held-out scores, standard errors, paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mergekit_darwin.evolve.fitness import standard_error
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.evolve.tasks import TaskSet


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
        """The child's line."""
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
