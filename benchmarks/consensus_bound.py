"""How many samples could any stopping rule save, and how many do ours?

    python benchmarks/consensus_bound.py O       # bound for the items of a --shadow run
    python benchmarks/consensus_bound.py rules   # two rules, items of two answers

The bound is a linear program over rules that see the votes of three answers and of all
the rest, and may toss coins. The samples of an item come in random order, so that more
than the votes is of no use. The program knows the run's items and wants the fewest
samples for just these, within the risk for every composition of votes: no rule of that
kind keeps the risk and saves more. (A fourth answer counts as no answer in it.)

The rules are ours, and the predictive one that it replaced: the chance that the
runner-up overtakes, under a uniform prior on the leader's share. Both are given the
largest tolerance that keeps the risk. Saved is a mean over shares of the first answer
from 0.5 to 1.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from math import comb, prod
from pathlib import Path
from unittest import mock

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import lil_matrix, vstack

from mergekit_darwin.delphi import guarantee, vote
from mergekit_darwin.delphi.samples import SAMPLES_NAME, read_samples, sampled

Votes = tuple[int, ...]
"""Of three answers, the most frequent first, and of the rest."""

RISKS = (0.0, 0.01, 0.05)
PLANS = [(n, s) for n in (8, 12, 16, 24) for s in (1, 2, 4)]
PLANS += [(n, s) for n in (32, 40) for s in (2, 4, 8)]


def compositions(total: int) -> list[Votes]:
    """Return every way to share samples among three answers, in order, and the rest."""
    return [
        (a, b, c, total - a - b - c)
        for a in range(total + 1)
        for b in range(min(a, total - a) + 1)
        for c in range(min(b, total - a - b) + 1)
    ]


def met(votes: Votes, whole: Votes, *, wrong: bool) -> float:
    """Return how likely the first samples of `whole` have `votes`, whoever has them.

    wrong: only where their leader is not among the most frequent of the whole.
    """
    found = 0.0
    for order in set(permutations(votes[:3])):
        leader = order.index(votes[0])
        if not wrong or whole[leader] < whole[0]:
            pairs = zip((*order, votes[3]), whole, strict=True)
            found += prod(comb(of, some) for some, of in pairs)
    return found / comb(sum(whole), sum(votes))


def most_saved(items: Counter[Votes], stage: int, risk: float) -> float:
    """Return the largest share of samples that a rule can save of these items."""
    samples = sum(next(iter(items)))
    looks = {*range(stage, samples, stage), samples}
    held = [votes for n in range(samples + 1) for votes in compositions(n)]
    at = {votes: i for i, votes in enumerate(held)}
    # open_[i]: share of the orders of held[i] not stopped before; then, stopped there.
    ends = [v for v in held if sum(v) == samples or (sum(v) in looks and v[0] > v[1])]
    stop = {votes: len(held) + i for i, votes in enumerate(ends)}
    width = len(held) + len(ends)
    flow = lil_matrix((len(held), width))
    for votes, i in at.items():
        flow[i, i] = 1.0
        for answer in range(4):
            if votes[answer]:
                fewer = list(votes)
                fewer[answer] -= 1
                before = (*sorted(fewer[:3], reverse=True), fewer[3])
                share = votes[answer] / sum(votes)
                flow[i, at[before]] -= share
                if before in stop:
                    flow[i, stop[before]] += share
    source = np.zeros(len(held))
    source[at[0, 0, 0, 0]] = 1.0
    wholes = compositions(samples)
    wrong = lil_matrix((len(wholes), width))
    cost = np.zeros(width)
    within = lil_matrix(
        (len(ends), width)
    )  # no more is stopped than is open; at the end all
    for row, (votes, j) in enumerate(stop.items()):
        within[row, j], within[row, at[votes]] = 1.0, -1.0
        if sum(votes) < samples:
            for i, whole in enumerate(wholes):
                wrong[i, j] = met(votes, whole, wrong=True)
        cost[j] = sum(votes) * sum(
            count * met(votes, whole, wrong=False) for whole, count in items.items()
        )
    last = [row for row, votes in enumerate(ends) if sum(votes) == samples]
    within = within.tocsr()
    found = linprog(
        cost / items.total(),
        A_ub=vstack([wrong.tocsr(), within]),
        b_ub=[*[risk] * len(wholes), *[0.0] * len(ends)],
        A_eq=vstack([flow.tocsr(), within[last]]),
        b_eq=[*source, *[0.0] * len(last)],
        bounds=(0.0, 1.0),
    )
    return 1.0 - found.fun / samples


def votes_of(answers: list[str | None]) -> Votes:
    """Return the votes of an item's samples."""
    counts = Counter(answer for answer in answers if answer is not None)
    first = [*(count for _, count in counts.most_common(3)), 0, 0, 0][:3]
    return (*first, len(answers) - sum(first))


def predictive(lead: int, second: int, left: int) -> float:
    """Return the chance that the runner-up overtakes; half of it where they draw level.

    Of what is left, J go to the leader, J ~ BetaBinomial(left, lead + 1, second + 1).
    """
    doubled = 0
    for more in range(left + 1):
        margin = lead + more - (second + left - more)
        ways = comb(lead + more, lead) * comb(second + left - more, second)
        doubled += (0 if margin > 0 else 1 if margin == 0 else 2) * ways
    if lead - second >= left:
        return 0.0
    return doubled / (2 * comb(lead + second + left + 1, left))


def saved(plan: vote.Plan) -> float:
    """Return the mean share of samples saved where two answers are given."""
    shares = np.linspace(0.5, 1.0, 26)
    open_, used = {(0, 0): np.ones(26)}, np.zeros(26)
    for drawn in range(1, plan.samples + 1):
        after: dict[tuple[int, int], np.ndarray] = {}
        for (first, other), weight in open_.items():
            for more, share in (
                ((first + 1, other), shares),
                ((first, other + 1), 1 - shares),
            ):
                after[more] = after.get(more, 0.0) + weight * share
        open_ = {}
        for votes, weight in after.items():
            left = plan.samples - drawn
            if left == 0 or (
                drawn in plan.looks
                and vote.may_stop(max(votes), min(votes), left, plan.tolerance)
            ):
                used += drawn * weight
            else:
                open_[votes] = weight
    return float(1.0 - used.mean() / plan.samples)


def by_rule(
    rule: Callable[[int, int, int], float], n: int, stage: int, risk: float
) -> float:
    """Return what a plan saves if a lead is judged by this rule."""
    guarantee._tolerance.cache_clear()
    guarantee.worst_disagreement.cache_clear()
    with (
        mock.patch.object(vote, "chance_if_losing", rule),
        mock.patch.object(guarantee, "chance_if_losing", rule),
    ):
        return saved(guarantee.make_plan(n, stage, risk))


def compare_rules() -> None:
    """Print what the two rules save, plan by plan."""
    print("| samples | stage | risk | predictive | ours |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    ours = vote.chance_if_losing
    for samples, stage in PLANS:
        for risk in (0.005, 0.01, 0.05):
            found = [by_rule(rule, samples, stage, risk) for rule in (predictive, ours)]
            print(f"| {samples} | {stage} | {risk} | {found[0]:.3f} | {found[1]:.3f} |")


def main() -> None:
    """Read the command line and do what it says."""
    if sys.argv[1:] == ["rules"]:
        compare_rules()
        return
    held = read_samples(Path(sys.argv[1]) / SAMPLES_NAME).values()
    items = Counter(votes_of([s.answer for s in sampled(of_item)]) for of_item in held)
    for stage in (1, 2, 4):
        for risk in RISKS:
            bound = most_saved(items, stage, risk)
            print(f"stage {stage}, risk {risk}: at most {bound:.1%} saved", flush=True)


if __name__ == "__main__":
    main()
