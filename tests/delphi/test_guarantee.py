"""The promise, enumerated and kept by simulation; the vote's accuracy, exact."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import cache
from itertools import product

import pytest

from mergekit_darwin.delphi.guarantee import (
    make_plan,
    vote_accuracy,
    worst_disagreement,
)
from mergekit_darwin.delphi.vote import Plan, may_stop, replay, winner
from mergekit_darwin.errors import DarwinError

SHIPPED = [
    (samples, stage, risk)
    for samples, stage in ((8, 2), (16, 1), (16, 2), (16, 4), (32, 2), (32, 8), (40, 5))
    for risk in (0.0, 0.005, 0.01, 0.05)
]


@pytest.mark.parametrize(("samples", "stage", "risk"), SHIPPED)
def test_every_plan_keeps_its_risk_in_the_worst_case(samples, stage, risk):
    plan = make_plan(samples, stage, risk)
    found = worst_disagreement(plan)
    assert found.chance <= risk
    assert sum(found.votes) <= samples
    if risk == 0.0:
        assert plan.tolerance == 0.0


def test_a_worst_case_is_that_counted_by_hand():
    """Eight of 16 samples seen, stopping at 7:1 or, of seven votes, at 6:1.

    Worst is 8:7 with one abstention: 7:1, 7:0 and 6:1 for the loser, by binomials.
    """
    found = worst_disagreement(Plan(16, 8, 0.0102))
    ways = math.comb(8, 1) + 1 + math.comb(7, 6) * math.comb(8, 1)
    assert found.votes == (8, 7, 0)
    assert found.chance == pytest.approx(ways / math.comb(16, 8), rel=1e-9)


def test_a_larger_tolerance_would_break_the_risk():
    plan = make_plan(32, 4, 0.01)
    assert worst_disagreement(Plan(32, 4, plan.tolerance * 2.5)).chance > 0.01


def test_two_answers_and_silence_by_every_order_of_a_small_case():
    """The enumeration against all 3^8 sequences, counted by hand."""
    plan = Plan(8, 2, 0.3)
    wrong: dict[tuple[int, int], int] = {}
    for answers in product(["a", "b", None], repeat=8):
        votes = (answers.count("a"), answers.count("b"))
        most = {x for x in "ab" if answers.count(x) == max(votes)}
        bad = replay(answers, plan)[1].winner not in most and max(votes) > 0
        wrong[votes] = wrong.get(votes, 0) + bad
    orders = {v: math.comb(8, sum(v)) * math.comb(sum(v), v[0]) for v in wrong}
    expected = max(count / orders[votes] for votes, count in wrong.items())
    assert expected > 0
    assert worst_disagreement(plan, answers=2).chance == pytest.approx(expected)


def partitions(total: int, largest: int | None = None) -> Iterator[tuple[int, ...]]:
    """Yield all ways to write total as a sum of counts, largest first."""
    largest = total if largest is None else largest
    if total == 0:
        yield ()
    for first in range(min(total, largest), 0, -1):
        for rest in partitions(total - first, first):
            yield (first, *rest)


def takings(votes: tuple[int, ...], drawn: int) -> Iterator[tuple[int, ...]]:
    """Yield the votes that `drawn` of these samples can have, answer by answer."""
    if not votes:
        if drawn == 0:
            yield ()
        return
    rest = sum(votes[1:])
    for taken in range(max(0, drawn - rest), min(votes[0], drawn) + 1):
        for others in takings(votes[1:], drawn - taken):
            yield (taken, *others)


def disagreement(plan: Plan, votes: tuple[int, ...]) -> float:
    """Return the chance of a wrong stop for any number of answers, by another way.

    Of samples in random order the first few are a random part: so the share of orders
    with votes q still open after n samples is a mean over what n - stage of them had.
    """

    def split(more: tuple[int, ...], fewer: tuple[int, ...]) -> float:
        ways = math.prod(math.comb(m, f) for m, f in zip(more, fewer, strict=True))
        return ways / math.comb(sum(more), sum(fewer))

    def stops(held: tuple[int, ...]) -> bool:
        first, second = (*sorted(held, reverse=True), 0)[:2]
        return may_stop(first, second, plan.samples - sum(held), plan.tolerance)

    @cache
    def reached(held: tuple[int, ...]) -> float:
        """Return the share of orders of held that are still open when it is drawn."""
        if sum(held) <= plan.stage:
            return 1.0
        before = takings(held, sum(held) - plan.stage)
        return sum(split(held, b) * reached(b) for b in before if not stops(b))

    total = 0.0
    for look in plan.looks[:-1]:
        for held in takings(votes, look):
            if stops(held) and votes[held.index(max(held))] < max(votes):
                total += split(votes, held) * reached(held)
    return total


def test_two_and_three_answers_are_the_worst_of_all_compositions_of_twelve():
    """Whatever the number of answers: all 77 ways that 12 votes can be cast."""
    for tolerance in (0.04, 0.08, 0.12):
        plan = Plan(12, 3, tolerance)
        worst = max(disagreement(plan, votes) for votes in partitions(12))
        assert 0.0 < worst <= worst_disagreement(plan).chance


def test_two_and_three_answers_are_the_worst_of_all_compositions_of_sixteen():
    plan = make_plan()
    worst = max(disagreement(plan, votes) for votes in partitions(16))
    assert worst <= worst_disagreement(plan).chance


def urn(draw: random.Random, answers: int, samples: int) -> list[str]:
    """Draw exchangeable but dependent answers: each seen one becomes more likely."""
    seen: list[int] = []
    for _ in range(samples):
        weights = [1.0 + 2.0 * seen.count(a) for a in range(answers)]
        seen.append(draw.choices(range(answers), weights)[0])
    return [str(a) for a in seen]


def independent(draw: random.Random, answers: int, samples: int) -> list[str]:
    """Draw independent answers, the first two equally likely and hardest to tell."""
    weights = [2.0, 2.0] + [1.0] * (answers - 2)
    return [str(a) for a in draw.choices(range(answers), weights, k=samples)]


@pytest.mark.parametrize("sampler", [independent, urn])
@pytest.mark.parametrize("answers", [2, 3, 5, 10])
def test_simulated_items_keep_the_promise_within_four_standard_errors(sampler, answers):
    draw, plan, items = random.Random(answers), make_plan(), 10_000
    wrong = 0
    for _ in range(items):
        drawn = sampler(draw, answers, 16)
        counts = {a: drawn.count(a) for a in set(drawn)}
        wrong += counts[replay(drawn, plan)[1].winner] < max(counts.values())
    promised = worst_disagreement(plan).chance
    assert wrong / items <= promised + 4 * math.sqrt(promised / items)


def incomplete_beta(p: float, n: int) -> float:
    """Return I_p((n + 1) / 2, (n + 1) / 2): more than half of n, n odd."""
    return sum(
        math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range((n + 1) // 2, n + 1)
    )


def test_vote_accuracy_is_the_incomplete_beta_function_for_two_answers():
    for p in (0.2, 0.5, 0.7):
        for n in (1, 5, 15):
            assert vote_accuracy([p, 1 - p], n) == pytest.approx(incomplete_beta(p, n))


def test_vote_accuracy_is_the_multinomial_sum_for_more_answers():
    shares, n, total = (0.4, 0.35, 0.15), 5, 0.0
    for drawn in product(range(4), repeat=n):
        chance = math.prod((*shares, 0.1)[a] for a in drawn)
        votes = [drawn.count(a) for a in range(3)]
        if votes[0] and votes[0] == max(votes):
            total += chance / votes.count(votes[0])
    assert vote_accuracy(shares, n) == pytest.approx(total)


def test_accuracy_of_mixed_items_rises_and_falls_with_the_samples():
    """Easy and hard items together: more samples help one kind and hurt the other."""

    def mean(n: int) -> float:
        easy, hard = vote_accuracy([0.9, 0.1], n), vote_accuracy([0.45, 0.55], n)
        return 0.55 * easy + 0.45 * hard

    accuracies = [mean(n) for n in range(1, 60, 2)]
    best = accuracies.index(max(accuracies))
    assert 0 < best < len(accuracies) - 1
    assert accuracies[-1] < accuracies[best] - 0.01


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"samples": 0}, "samples must be from 1 to 64; got 0"),
        ({"samples": 65}, "samples must be"),
        ({"samples": 8, "stage": 9}, r"stage must be from 1 to samples \(8\); got 9"),
        ({"risk": 0.5}, "risk must be from 0"),
        ({"risk": -0.1}, "risk must be from 0"),
        ({"risk": math.nan}, "risk must be from 0"),
    ],
)
def test_numbers_that_make_no_plan_are_refused(given, named):
    with pytest.raises(DarwinError, match=named):
        make_plan(**given)


def test_the_winner_of_a_long_run_is_the_mode():
    draw = random.Random(1)
    assert winner(["ab"[draw.random() < 0.4] for _ in range(2001)]) == "a"
