"""What a plan promises against the vote of all its samples: enumerated, not assumed.

Given the N answers of an item, whatever model drew them, their order is uniform if the
samples are exchangeable. So the chance that the stopped vote names an answer that is
not among the most frequent of the N is a finite sum for every composition of the N, and
the largest of these sums is a promise that needs no prior and no independence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mergekit_darwin.delphi.vote import Plan, chance_if_losing, may_stop
from mergekit_darwin.errors import DarwinError

MOST_SAMPLES = 64  # as many as any task of the harness draws; enumerated in seconds
_ROUNDING = 1e-12  # relative, of our sums of logarithms and counts in float64


@dataclass(frozen=True)
class Worst:
    """The largest chance of a disagreement, and the composition of votes that has it.

    votes are the three most frequent answers' counts among the N; the rest of the N
    abstained.
    """

    chance: float
    votes: tuple[int, int, int]


def make_plan(samples: int = 16, stage: int = 2, risk: float = 0.01) -> Plan:
    """Return the plan that stops earliest and keeps its worst disagreement <= risk.

    Risk 0 gives the vote of all samples, exactly, ties included. Raises DarwinError for
    numbers that make no plan.
    """
    _check(samples, stage, risk)
    return Plan(samples, stage, _tolerance(samples, stage, risk))


def _check(samples: int, stage: int, risk: float) -> None:
    if not 1 <= samples <= MOST_SAMPLES:
        raise DarwinError(f"samples must be from 1 to {MOST_SAMPLES}; got {samples}.")
    if not 1 <= stage <= samples:
        raise DarwinError(f"stage must be from 1 to samples ({samples}); got {stage}.")
    if not 0.0 <= risk < 0.5:
        raise DarwinError(
            f"risk must be from 0 up to, but not, 0.5; got {risk}. It is the largest"
            " share of items at which the stopped vote may differ from the full one."
        )


@lru_cache(maxsize=64)
def _tolerance(samples: int, stage: int, risk: float) -> float:
    """Return the largest tolerance that keeps the risk; 0 where none does.

    Bisected over the chances that can occur, with two answers, then lowered step by
    step until three answers keep it too. That a larger tolerance is riskier is taken
    for granted by the search alone: what is returned was enumerated itself.
    """
    if risk == 0.0:
        return 0.0
    steps = _chances(samples, stage)
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        found = worst_disagreement(Plan(samples, stage, steps[middle]), answers=2)
        low, high = (middle + 1, high) if found.chance <= risk else (low, middle)
    for tolerance in reversed(steps[:low]):
        if worst_disagreement(Plan(samples, stage, tolerance)).chance <= risk:
            return tolerance
    return 0.0


def _chances(samples: int, stage: int) -> list[float]:
    """Return the chances below 0.5 that a lead can have after a stage, ascending."""
    found = {
        chance_if_losing(lead, second, samples - look)
        for look in range(stage, samples, stage)
        for second in range(look // 2 + 1)
        for lead in range(second + 1, look - second + 1)
    }
    return sorted(chance for chance in found if 0.0 < chance < 0.5)


@lru_cache(maxsize=256)
def worst_disagreement(plan: Plan, answers: int = 3) -> Worst:
    """Return the worst case of a plan over every composition of its N samples.

    Up to `answers` (2 or 3) different answers and any number of abstentions. Counts
    sequences: open_[x] are those with votes x that have not been stopped, closed[x]
    those that were stopped with the first answer as their leader.
    """
    shape = (plan.samples + 1,) * answers
    open_, closed = np.zeros(shape), np.zeros(shape)
    open_[(0,) * answers] = 1.0
    for drawn in range(1, plan.samples + 1):
        open_, closed = _one_more(open_), _one_more(closed)
        if drawn in plan.looks[:-1]:
            stops, first = _stops(plan, drawn, answers)
            closed += np.where(first, open_, 0.0)
            open_ = np.where(stops, 0.0, open_)
    return _worst(closed, answers)


def _one_more(sequences: np.ndarray) -> np.ndarray:
    """Return the sequences one sample longer: for one of the answers, or none."""
    longer = sequences.copy()
    for axis in range(sequences.ndim):
        ahead = [slice(None)] * sequences.ndim
        behind = [slice(None)] * sequences.ndim
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        longer[tuple(ahead)] += sequences[tuple(behind)]
    return longer


def _stops(plan: Plan, drawn: int, answers: int) -> tuple[Any, Any]:
    """Return where a plan stops after `drawn` samples, and where the first leads then.

    Two bool arrays over votes. A stop has one leader.
    """
    size = plan.samples + 1
    table = np.zeros((size, size), dtype=bool)
    for second in range(drawn // 2 + 1):
        for lead in range(second, drawn - second + 1):
            table[lead, second] = may_stop(
                lead, second, plan.samples - drawn, plan.tolerance
            )
    votes = np.indices((size,) * answers)
    ordered = np.sort(votes, axis=0)
    stops = table[ordered[-1], ordered[-2]] & (votes.sum(axis=0) <= drawn)
    return stops, stops & (votes[0] == ordered[-1])


def _worst(closed: np.ndarray, answers: int) -> Worst:
    """Return the composition whose orders most often stop at an answer that loses."""
    votes = np.indices(closed.shape)
    samples = closed.shape[0] - 1
    most = votes.max(axis=0)
    wrong = np.zeros_like(closed)
    for answer in range(answers):
        of_answer = np.swapaxes(closed, 0, answer)
        wrong += np.where(votes[answer] < most, of_answer, 0.0)
    rest = samples - votes.sum(axis=0)
    share = np.where(rest >= 0, wrong / _orders(votes, rest), 0.0)
    place = np.unravel_index(int(share.argmax()), share.shape)
    counts = sorted((int(count) for count in place), reverse=True)
    first, second, third = (*counts, 0, 0)[:3]
    chance = float(share[place])
    return Worst(chance + _ROUNDING * chance, (first, second, third))


def _orders(votes: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return in how many orders votes and abstentions can come: a multinomial."""
    factorial = [math.factorial(n) for n in range(votes.shape[1])]
    whole = factorial[-1]
    logs = np.array([math.log(value) for value in factorial])
    total = math.log(whole) - logs[votes].sum(axis=0) - logs[np.maximum(rest, 0)]
    return np.exp(total)


def vote_accuracy(shares: Sequence[float], samples: int) -> float:
    """Return how often a vote of independent samples gives the first answer, exactly.

    shares are the probabilities of the answers, the right one first; what they lack to
    1 abstains. Answers equal in votes win equally often, as the first to get there.
    Source: Chen et al., arXiv 2403.02419, eq. 1, for two answers and odd N.
    """
    right, *wrong = shares
    silent = max(0.0, 1.0 - math.fsum(shares))
    total = 0.0
    for votes in range(1, samples + 1):
        # weight[t, n]: chance weight of n samples of the others, t of them level
        weight = np.zeros((len(wrong) + 1, samples - votes + 1))
        weight[0] = _poisson(silent, samples - votes)
        for share in wrong:
            weight = _with_rival(weight, share, votes)
        chance = weight[:, samples - votes] / np.arange(1, len(wrong) + 2)
        total += chance.sum() * right**votes / math.factorial(votes)
    return float(total * math.factorial(samples))


def _poisson(share: float, most: int) -> np.ndarray:
    return np.array([share**n / math.factorial(n) for n in range(most + 1)])


def _with_rival(weight: np.ndarray, share: float, votes: int) -> np.ndarray:
    """Return the weights with one more answer of fewer votes, or as many (one tie)."""
    levels, length = weight.shape
    terms = _poisson(share, length - 1)
    found = np.zeros_like(weight)
    for level in range(levels):
        below = np.convolve(weight[level], terms[:votes])[:length]
        found[level] += below
        if votes < length and level + 1 < levels:
            found[level + 1, votes:] += weight[level, : length - votes] * terms[votes]
    return found
