"""The honest comparison: held-out scores, standard errors, paired tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergekit_darwin.evolve.fitness import Exam, standard_error
from mergekit_darwin.evolve.log import Evaluation

Items = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Row:
    """One model on the held-out items; stderr None where no item values exist."""

    name: str
    score: float | None
    stderr: float | None
    tasks: dict[str, tuple[float, float | None]]
    items: Items
    error: str | None = None


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


def row_of(line: Evaluation, items: Items, exam: Exam) -> Row:
    """Return a held-out measurement as a row; its items may be empty."""
    tasks = {}
    parts: list[float] | None = []
    for paper in exam.papers:
        found = line.tasks.get(paper.name)
        if found is None:
            continue
        value = next(v for k, v in found.items() if k not in ("stderr", "n"))
        error = found["stderr"]
        tasks[paper.name] = (float(value or 0.0), error)
        if error is None:
            parts = None
        elif parts is not None:
            parts.append((paper.weight * error) ** 2)
    stderr = math.sqrt(math.fsum(parts)) if parts else None
    return Row(line.name, line.score, stderr, tasks, items, line.error)


def paired(child: Row, other: Row, exam: Exam) -> Paired | None:
    """Return the paired test of two rows, None without item values for both.

    z test on the weighted mean of per-item differences; its variance is the sum over
    tasks of weight^2 var / n. Normal approximation: fit for hundreds of items.
    """
    differences: dict[str, list[float]] = {}
    for paper in exam.papers:
        left, right = child.items.get(paper.name), other.items.get(paper.name)
        if not left or not right or len(left) != len(right):
            return None
        differences[paper.name] = [a - b for a, b in zip(left, right, strict=True)]
    mean, variance = 0.0, 0.0
    for paper in exam.papers:
        values = differences[paper.name]
        mean += paper.weight * math.fsum(values) / len(values)
        variance += (paper.weight * standard_error(values)) ** 2
    error = math.sqrt(variance)
    z = abs(mean) / error if error > 0.0 else (math.inf if mean else 0.0)
    flat = [value for values in differences.values() for value in values]
    return Paired(
        other=other.name,
        difference=mean,
        stderr=error,
        p=math.erfc(z / math.sqrt(2.0)),
        wins=sum(value > 0 for value in flat),
        losses=sum(value < 0 for value in flat),
    )


def better(rows: Sequence[Row], names: Sequence[str]) -> Row | None:
    """Return the best scored row among some names, None if none was measured."""
    known = [row for row in rows if row.name in names and row.score is not None]
    return max(known, key=lambda row: row.score or 0.0, default=None)


def verdict(test: Paired | None) -> str:
    """Return one honest clause about a paired test."""
    if test is None:
        return "cannot be compared item by item"
    times = abs(test.difference) / test.stderr if test.stderr else math.inf
    size = f"{test.difference:+.3f} ± {test.stderr:.3f} (p = {test.p:.2g})"
    if times < 2.0:
        return f"{size}: no difference that these items could show"
    word = "above" if test.difference > 0 else "BELOW"
    return f"{size}: {word} it by {times:.1f} standard errors"
