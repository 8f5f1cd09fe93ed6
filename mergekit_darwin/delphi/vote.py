"""The vote over the samples of one item, and when to stop drawing them.

Pure: no model, no harness. An answer is a string, or None where a sample had none: it
was drawn and paid for, and does not vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import comb


@dataclass(frozen=True)
class Plan:
    """How many samples at most, how many a stage, and when the vote may stop.

    tolerance, in [0, 0.5), is the largest chance of a change at which drawing stops;
    0 stops only where the leader can no longer be overtaken. It is not the user's risk:
    guarantee.make_plan finds the tolerance that keeps a risk.
    """

    samples: int
    stage: int
    tolerance: float

    @property
    def looks(self) -> tuple[int, ...]:
        """How many samples are drawn each time the vote is looked at."""
        return (*range(self.stage, self.samples, self.stage), self.samples)


@dataclass(frozen=True)
class Decision:
    """What the samples so far say: the winner, and whether to stop at it.

    winner is None where no sample had an answer; chance is that of a change, in [0, 1].
    """

    stop: bool
    winner: str | None
    chance: float


def winner(answers: Sequence[str | None]) -> str | None:
    """Return the most frequent answer; of equals, that which got there first.

    A leader keeps its place until another has more votes: so a lead that can only be
    drawn level with cannot be lost. None where no sample answered.
    """
    counts: Counter[str] = Counter()
    leader: str | None = None
    for answer in answers:
        if answer is None:
            continue
        counts[answer] += 1
        if leader is None or counts[answer] > counts[leader]:
            leader = answer
    return leader


@cache
def chance_of_change(lead: int, second: int, left: int) -> float:
    """Return the predictive chance that the runner-up overtakes the leader.

    lead and second are their votes, left the samples still to come, all taken to be for
    one of the two. J of them go to the leader, J ~ BetaBinomial(left, lead + 1,
    second + 1) (a uniform prior on the leader's share):

        P(lead + J < second + left - J) + P(lead + J = second + left - J) / 2

    Computed in whole numbers, divided once.
    """
    doubled = 0
    for to_leader in range(left + 1):
        margin = lead + to_leader - (second + left - to_leader)
        if margin > 0:
            break
        ways = comb(lead + to_leader, lead) * comb(second + left - to_leader, second)
        doubled += ways if margin == 0 else 2 * ways
    return doubled / (2 * comb(lead + second + left + 1, left))


def may_stop(lead: int, second: int, left: int, tolerance: float) -> bool:
    """Return whether drawing may stop: the lead is safe, or a change unlikely enough.

    A lead is safe where all samples left could at most draw level.
    """
    safe = lead - second >= left
    return safe or chance_of_change(lead, second, left) <= tolerance


def decide(answers: Sequence[str | None], plan: Plan) -> Decision:
    """Return what to do after these answers, in the order in which they were drawn."""
    votes = Counter(answer for answer in answers if answer is not None)
    lead, second = (*sorted(votes.values(), reverse=True), 0, 0)[:2]
    left = plan.samples - len(answers)
    safe = lead - second >= left
    return Decision(
        stop=may_stop(lead, second, left, plan.tolerance),
        winner=winner(answers),
        chance=0.0 if safe else chance_of_change(lead, second, left),
    )


def replay(answers: Sequence[str | None], plan: Plan) -> tuple[int, Decision]:
    """Return after how many of these answers the plan stops, and its decision there.

    answers may be longer than the plan needs (all samples drawn, to check the rule), or
    just as long; where they end before it stops, the decision at their end is given.
    """
    decision = decide((), plan)
    for look in plan.looks:
        if look > len(answers):
            break
        decision = decide(answers[:look], plan)
        if decision.stop:
            return look, decision
    return len(answers), decision
