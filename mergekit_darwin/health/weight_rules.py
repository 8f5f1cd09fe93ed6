"""From facts about tensors to findings: pure rules, numbers in, findings out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from mergekit_darwin.health.facts import TensorFacts
from mergekit_darwin.health.report import Finding, finding
from mergekit_darwin.health.stray_rules import (
    finding_of,
    stray_findings,
    usual_distances,
)
from mergekit_darwin.health.thresholds import Thresholds
from mergekit_darwin.kernel.profile import Profile

_FEW = 64  # elements; fewer say nothing of precision or of duplicates; our choice
_KIN = 0.5  # of the tensors that a child and a parent must share; our choice
_NAMES = {"father": "Father", "mother": "Mother", "base": "base"}


def weight_findings(
    facts: Sequence[TensorFacts], thresholds: Thresholds
) -> list[Finding]:
    """Return what is wrong with the weights, in the order of the facts.

    A tensor with NaN or Inf, or a dead one, is measured no further.
    """
    usual = usual_distances(facts)
    found: list[Finding] = []
    for row in facts:
        first = [*_no_weight(row), *_broken(row), *_dead(row, thresholds)]
        found += first
        if not any(item.severity == "error" for item in first):
            for rule in _RULES:
                found += rule(row, thresholds)
            found += stray_findings(row, usual.get(row.kind), thresholds)
    return found + _duplicates(facts) + _unchanged(facts) + _no_parents(facts)


def count_facts(facts: Sequence[TensorFacts]) -> dict[str, int]:
    """Return how many tensors there are, and how many equal which model."""
    held = [row for row in facts if "child" in row.shapes]
    equal = Counter(role for row in held for role in row.equal)
    layers = [row.layer for row in held if row.layer is not None]
    return {
        "tensors": len(held),
        "changed": sum(not row.equal for row in held),
        **{f"equal_{role}": equal[role] for role in _NAMES},
        "elements": sum(math.prod(row.shapes["child"]) for row in held),
        "nan": sum(row.child.nan for row in held if row.child),
        "inf": sum(row.child.inf for row in held if row.child),
        "layers": max(layers) + 1 if layers else 0,
    }


def _parents(row: TensorFacts) -> list[Profile]:
    return [profile for profile in (row.father, row.mother) if profile is not None]


def _no_weight(row: TensorFacts) -> Iterable[Finding]:
    """Matrices of integers: quantised weights, or damage; nothing here can tell.

    Position tables (int64), as older BERTs store them, are none while a parent has
    the same.
    """
    kind = row.dtypes.get("child", "float32")
    table = kind == "int64" and row.equal
    if "float" not in kind and len(row.shapes["child"]) > 1 and not table:
        yield finding_of(row, "no_weight", "error", kind, "a floating-point type")


def _broken(row: TensorFacts) -> Iterable[Finding]:
    if row.child is None:
        return
    for rule in ("nan", "inf"):
        count = getattr(row.child, rule)
        if count:
            ours = any(getattr(profile, rule) for profile in _parents(row))
            yield finding_of(
                row, rule, "error", count, "0 (a parent has them)" if ours else 0
            )


def _dead(row: TensorFacts, thresholds: Thresholds) -> Iterable[Finding]:
    child, parents = row.child, _parents(row)
    if child is None or child.nan or child.inf or not parents or child.numel < 2:
        return
    if child.max_abs == 0.0:
        if all(profile.max_abs > 0.0 for profile in parents):
            yield finding_of(
                row, "dead_tensor", "error", "all zero", "not so in the parents"
            )
    elif child.std == 0.0:
        if all(profile.std > 0.0 for profile in parents):
            yield finding_of(
                row, "dead_tensor", "error", "constant", "not so in the parents"
            )
    else:
        share = child.zeros / child.numel
        most = max(profile.zeros / max(1, profile.numel) for profile in parents)
        if share > thresholds.zeros + most:
            yield finding_of(row, "zeros", "warning", share, f"at most {most:.3g}")


def _range(row: TensorFacts, thresholds: Thresholds) -> Iterable[Finding]:
    """Norm of every tensor; std of matrices, as a norm's weights vary by chance."""
    if row.child is None or len(_parents(row)) < 2:
        return
    low, high = thresholds.norm_low, thresholds.norm_high
    expected = f"{low:g} to {high:g}"
    rules = ["norm", "std"] if len(row.shapes["child"]) > 1 else ["norm"]
    for rule in rules:
        value = getattr(row.child, rule)
        sizes = [getattr(profile, rule) for profile in _parents(row)]
        if min(sizes) <= 0.0:
            continue
        if value > high * max(sizes):
            yield finding_of(
                row, f"{rule}_range", "warning", value / max(sizes), expected
            )
        elif value < low * min(sizes):
            yield finding_of(
                row, f"{rule}_range", "warning", value / min(sizes), expected
            )


def _coarse(row: TensorFacts, thresholds: Thresholds) -> Iterable[Finding]:
    if row.child is None or row.child.numel < _FEW or len(row.unused_bits) < 3:
        return
    kept = max(row.unused_bits["father"], row.unused_bits["mother"])
    if row.unused_bits["child"] - kept >= max(1.0, thresholds.coarse_bits):
        yield finding_of(row, "coarse", "error", row.unused_bits["child"], kept)


def _shape(row: TensorFacts, thresholds: Thresholds) -> Iterable[Finding]:
    """A child may differ only where the parents differ (another vocabulary)."""
    shapes = row.shapes
    if {"child", "father", "mother"} <= set(shapes):
        wanted = {shapes["father"], shapes["mother"]}
        if len(wanted) == 1 and shapes["child"] not in wanted:
            yield finding_of(
                row, "shape", "warning", str(shapes["child"]), str(*wanted)
            )


_RULES: tuple[Callable[[TensorFacts, Thresholds], Iterable[Finding]], ...] = (
    _range,
    _coarse,
    _shape,
)


def _duplicates(facts: Sequence[TensorFacts]) -> list[Finding]:
    """Layers of the child with one profile, to the last digit, where no parent has."""
    seen: dict[tuple[str, Profile], TensorFacts] = {}
    found = []
    for row in facts:
        if row.layer is None or row.child is None or row.child.numel < _FEW:
            continue
        if not _parents(row):  # a layer that no parent has may be meant as a copy
            continue
        if row.child.std == 0.0 or row.child.nan or row.child.inf:
            continue
        first = seen.setdefault((row.kind, row.child), row)
        alike = first.father == row.father or first.mother == row.mother
        if first is not row and not alike:
            words = f"the same as layer {first.layer}"
            found.append(
                finding_of(row, "duplicate", "error", words, "a layer of its own")
            )
    return found


def _no_parents(facts: Sequence[TensorFacts]) -> list[Finding]:
    """A parent must have most tensors that the smaller of child and parent has."""
    found = []
    for role in ("father", "mother"):
        child, parent, both = (
            {row.name for row in facts if roles <= set(row.shapes)}
            for roles in ({"child"}, {role}, {"child", role})
        )
        fewest = min(len(child), len(parent))
        if len(both) < _KIN * fewest:
            words = f"{_NAMES[role]} shares {len(both)} of {fewest} tensors"
            found.append(finding("no_parent", "error", words, f"at least {_KIN:.0%}"))
    return found


def _unchanged(facts: Sequence[TensorFacts]) -> list[Finding]:
    """A child all of whose tensors are one model's: nothing was merged."""
    held = [row for row in facts if "child" in row.shapes]
    found = []
    pairs = [row for row in held if row.father is not None and row.mother is not None]
    if pairs and all(row.father == row.mother for row in pairs):
        found.append(finding("parents_identical", "warning", 0, "more than 0"))
    for role, name in _NAMES.items():
        if held and all(role in row.equal for row in held):
            words = f"all {len(held)} tensors equal {name}'s"
            found.append(finding("nothing_changed", "error", words, "some that differ"))
    return found
