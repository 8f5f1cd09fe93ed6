"""The vote and its stop: exact at risk 0, chances by enumeration, ties, silence."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations, product

import pytest

from mergekit_darwin.delphi.guarantee import make_plan
from mergekit_darwin.delphi.vote import (
    Plan,
    chance_if_losing,
    decide,
    may_stop,
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


def chance_by_hand(lead: int, second: int, left: int) -> Fraction:
    """Return the chance by going through every order of the votes of a close loss."""
    total = lead + second + left
    losing = (total - 1) // 2
    orders = list(combinations(range(total), losing))
    drawn = lead + second
    return Fraction(sum(sum(x < drawn for x in o) >= lead for o in orders), len(orders))


def test_chance_if_losing_equals_enumeration_in_fractions_up_to_ten_samples():
    for drawn in range(1, 11):
        for second in range(drawn // 2 + 1):
            for left in range(11 - drawn):
                lead = drawn - second
                exact = chance_by_hand(lead, second, left)
                assert chance_if_losing(lead, second, left) == float(exact)


def test_a_chance_is_nought_only_where_what_is_left_could_at_most_draw_level():
    for lead, second, left in product(range(1, 13), range(12), range(1, 13)):
        if lead > second:
            safe = lead - second >= left
            assert (chance_if_losing(lead, second, left) == 0.0) is safe


def test_no_stage_that_could_stop_is_drawn_with_the_next():
    """Whatever the votes there: fewer of them, or more answers, never stop sooner."""
    for samples, stage, risk in ((16, 1, 0.01), (16, 2, 0.05), (24, 3, 0.0)):
        plan = make_plan(samples, stage, risk)
        for look in set(range(stage, samples, stage)) - set(plan.looks):
            for lead in range(look + 1):
                for second in range(min(lead, look - lead) + 1):
                    left = samples - look
                    assert not may_stop(lead, second, left, plan.tolerance)


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
    assert held.stop and held.winner == "7"
    nothing = decide([None] * 8, plan)
    assert nothing.stop and nothing.winner is None


def test_a_lead_that_can_only_be_drawn_level_with_is_safe():
    plan = Plan(8, 4, 0.0)
    assert decide(["a"] * 4, plan).stop
    assert not decide(["a"] * 3 + ["b"], plan).stop
    assert winner(["a"] * 4 + ["b"] * 4) == "a"


def test_looks_end_with_the_last_sample_even_in_a_short_stage():
    assert Plan(10, 4, 0.1).looks == (4, 8, 10)
    assert Plan(10, 4, 0.0).looks == (8, 10)  # 4:0 can still be overtaken
    assert Plan(4, 4, 0.0).looks == (4,)
    assert replay(["a", "b"], Plan(10, 4, 0.0))[0] == 2
