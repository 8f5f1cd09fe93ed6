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

    tolerance, in [0, 0.5), is the largest chance_if_losing at which drawing stops; 0
    stops only where the leader can no longer be overtaken. It is not the user's risk:
    guarantee.make_plan finds the tolerance that keeps a risk.
    """

    samples: int
    stage: int
    tolerance: float

    @property
    def looks(self) -> tuple[int, ...]:
        """How many samples are drawn each time the vote is looked at.

        Stages after which not even one answer alone could stop it are drawn together.
        """
        ends = range(self.stage, self.samples, self.stage)
        open_ = (n for n in ends if may_stop(n, 0, self.samples - n, self.tolerance))
        return (*open_, self.samples)


@dataclass(frozen=True)
class Decision:
    """What the samples so far say: the winner, and whether to stop at it.

    winner is None where no sample had an answer.
    """

    stop: bool
    winner: str | None


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
def chance_if_losing(lead: int, second: int, left: int) -> float:
    """Return how likely so large a lead is if the leader loses in the end, at most.

    lead and second are their votes, left the samples still to come, all taken to be for
    one of the two: T votes in the end. Of these a leader that loses by the least has
    (T - 1) // 2, and the votes so far are a part of them in random order:

        P(X >= lead), X ~ Hypergeometric(T, (T - 1) // 2, lead + second)

    0 where it cannot lose: where all that is left could at most draw level. Computed in
    whole numbers, divided once. Source: the question of an audit that draws ballots
    without replacement (Stark, arXiv 2201.02707).
    """
    drawn = lead + second
    mine = (drawn + left - 1) // 2
    others = drawn + left - mine
    ways = sum(comb(mine, x) * comb(others, drawn - x) for x in range(lead, drawn + 1))
    return ways / comb(mine + others, drawn)


def may_stop(lead: int, second: int, left: int, tolerance: float) -> bool:
    """Return whether drawing may stop: there is a leader, and it hardly loses."""
    return lead > second and chance_if_losing(lead, second, left) <= tolerance


def decide(answers: Sequence[str | None], plan: Plan) -> Decision:
    """Return what to do after these answers, in the order in which they were drawn."""
    votes = Counter(answer for answer in answers if answer is not None)
    lead, second = (*sorted(votes.values(), reverse=True), 0, 0)[:2]
    left = plan.samples - len(answers)
    stop = left == 0 or may_stop(lead, second, left, plan.tolerance)
    return Decision(stop, winner(answers))


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
