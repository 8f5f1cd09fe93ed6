"""The vote and its stop: exact at risk 0, chances by enumeration, ties, silence."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import product
from math import factorial

import pytest

from mergekit_darwin.delphi.guarantee import make_plan
from mergekit_darwin.delphi.vote import (
    Plan,
    chance_of_change,
    decide,
    replay,
    winner,
)


@pytest.mark.parametrize("stage", [1, 3, 4])
def test_risk_zero_gives_the_full_vote_for_all_sequences_of_three_answers(stage):
    plan = make_plan(8, stage, 0.0)
    used = Counter()
    for answers in product("abc", repeat=8):
        look, decision = replay(answers, plan)
        assert decision.winner == winner(answers)
        used[look] += 1
    assert min(used) < 8  # it does stop early, where nothing is lost


def test_risk_zero_gives_the_full_vote_when_samples_abstain():
    plan = make_plan(6, 2, 0.0)
    for answers in product(["a", "b", None], repeat=6):
        assert replay(answers, plan)[1].winner == winner(answers)


def beta(x: int, y: int) -> Fraction:
    """Return the beta function at whole numbers."""
    return Fraction(factorial(x - 1) * factorial(y - 1), factorial(x + y - 1))


def chance_by_hand(lead: int, second: int, left: int) -> Fraction:
    """Return the predictive chance by going through every sequence of what is left."""
    total = Fraction(0)
    for rest in product((0, 1), repeat=left):
        more = sum(rest)
        weight = beta(lead + more + 1, second + left - more + 1) / beta(
            lead + 1, second + 1
        )
        margin = lead + more - (second + left - more)
        total += weight * (1 if margin < 0 else Fraction(1, 2) if margin == 0 else 0)
    return total


def test_chance_of_change_equals_enumeration_in_fractions_up_to_ten_samples():
    for drawn in range(1, 11):
        for second in range(drawn // 2 + 1):
            for left in range(11 - drawn):
                lead = drawn - second
                exact = chance_by_hand(lead, second, left)
                assert chance_of_change(lead, second, left) == float(exact)


def test_of_equal_answers_the_one_that_got_there_first_wins():
    assert winner(["a", "b", "b", "a"]) == "b"
    assert winner(["a", "b"]) == "a"
    assert winner([None, "b", None, None]) == "b"
    assert winner([None, None]) is None
    assert winner([]) is None


def test_abstentions_use_up_samples_and_do_not_vote():
    plan = Plan(8, 4, 0.0)
    assert not decide([None, None, None, None], plan).stop
    held = decide([None, None, "7", None, "7", "7", None], plan)
    assert held.stop and held.winner == "7" and held.chance == 0.0
    nothing = decide([None] * 8, plan)
    assert nothing.stop and nothing.winner is None


def test_a_lead_that_can_only_be_drawn_level_with_is_safe():
    plan = Plan(8, 4, 0.0)
    assert decide(["a"] * 4, plan).stop
    assert not decide(["a"] * 3 + ["b"], plan).stop
    assert winner(["a"] * 4 + ["b"] * 4) == "a"


def test_looks_end_with_the_last_sample_even_in_a_short_stage():
    assert Plan(10, 4, 0.0).looks == (4, 8, 10)
    assert Plan(4, 4, 0.0).looks == (4,)
    assert replay(["a", "b"], Plan(10, 4, 0.0))[0] == 2
