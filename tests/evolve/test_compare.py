"""Paired tests by hand, and the words for them."""

from __future__ import annotations

import math

import pytest

from mergekit_darwin.evolve.compare import Paired, better, paired, verdict
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.evolve.tasks import Task, TaskSet


def task_set(*weights: float) -> TaskSet:
    """Return tasks t0, t1 ... of these weights."""
    rows = [Task(f"t{i}", "acc", w, 1.0, (), None) for i, w in enumerate(weights)]
    return TaskSet(tuple(rows), "")


def row(name: str, score: float, **samples: list[float]) -> Evaluation:
    """Return a held-out line with its samples."""
    head = {"index": 0, "phase": "baseline", "generation": 0}
    return Evaluation(**head, name=name, score=score, samples=samples)


def test_paired_test_by_hand():
    child = row("child", 0.75, t0=[1, 1, 1, 0])
    other = row("father", 0.25, t0=[1, 0, 0, 0])
    test = paired(child, other, task_set(1.0))
    assert test is not None
    assert test.difference == pytest.approx(0.5)
    deviation = math.sqrt((0.25 * 4) / 3)
    assert test.stderr == pytest.approx(deviation / 2)
    assert (test.wins, test.losses) == (2, 0)
    assert test.p == pytest.approx(math.erfc(0.5 / test.stderr / math.sqrt(2)))


def test_paired_test_weighs_tasks():
    child = row("child", 0.0, t0=[1, 1, 1, 1], t1=[0, 0])
    other = row("mother", 0.0, t0=[0, 0, 0, 0], t1=[1, 1])
    test = paired(child, other, task_set(0.75, 0.25))
    assert test is not None and test.difference == pytest.approx(0.5)
    assert test.stderr == 0.0 and test.p == 0.0


def test_without_items_there_is_no_test():
    assert paired(row("child", 1.0), row("father", 0.0), task_set(1.0)) is None
    assert "cannot be compared" in verdict(None)


def test_a_small_difference_is_called_none_and_a_loss_a_loss():
    tie = [1.0, 0.0] * 50
    flipped = [0.0, 1.0] * 50
    test = paired(row("c", 0.5, t0=tie), row("f", 0.5, t0=flipped), task_set(1.0))
    assert "no difference" in verdict(test)
    low, high = row("c", 0, t0=[0.0] * 99 + [1.0]), row("f", 1, t0=[1.0] * 100)
    worse = paired(low, high, task_set(1))
    assert "BELOW" in verdict(worse)


def test_better_takes_only_the_named():
    rows = [row("father", 0.4), row("mother", 0.6), row("linear 0.5", 0.9)]
    assert better(rows, ("father", "mother")).name == "mother"
    assert better(rows, ("nobody",)) is None


def test_no_difference_at_all_is_not_called_below():
    left, right = row("c", 0.5, t0=[1.0, 0.0]), row("f", 0.5, t0=[1.0, 0.0])
    said = verdict(paired(left, right, task_set(1.0)))
    assert said == "no difference at all on these items"


def test_the_same_difference_on_every_item_has_no_infinite_error():
    said = verdict(Paired("f", -1.0, 0.0, 0.0, 0, 4))
    assert "BELOW it by the same on every item" in said and "inf" not in said
