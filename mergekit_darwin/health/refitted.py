"""Maps that mergekit-darwin-refit solved: no mix of weights, and yet no damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.health.facts import TensorFacts
from mergekit_darwin.health.relatives import Relatives
from mergekit_darwin.health.report import Finding, finding
from mergekit_darwin.health.thresholds import Thresholds
from mergekit_darwin.refit.report import REPORT, kind_of, read_refit


def judge_refitted(
    facts: Sequence[TensorFacts], family: Relatives, thresholds: Thresholds
) -> tuple[list[TensorFacts], list[Finding]]:
    """Return the facts without the strays of refitted maps, and what is said of these.

    A solved map leaves its parents' plane on purpose, by many times what they changed
    in it, so it is judged by how far it moved at all. Only what the refit.json beside
    the child names is excused, and only if it was made from these parents.
    """
    kinds = fitted_kinds(family)
    rows, found, count = [], [], 0
    for row in facts:
        if row.stray is None or kind_of(row.name) not in kinds:
            rows.append(row)
            continue
        rows.append(replace(row, stray=None))
        count += 1
        share, most = row.stray.share, thresholds.refitted
        if share > most:
            where = {"layer": row.layer, "tensor": row.name}
            words = f"at most {most:g}"
            found.append(finding("refitted", "error", share, words, **where))
    if count:
        words = f"{count} maps were refitted"
        found.append(finding("refitted", "note", words, "judged by how far they moved"))
    return rows, found


def fitted_kinds(family: Relatives) -> frozenset[str]:
    """Return the names of what was refitted, numbers as *; none of a mixed child."""
    try:
        report = read_refit(Path(family.checkpoints["child"].path) / REPORT)
    except DarwinError:
        return frozenset()
    for role in ("father", "mother"):
        known = report.models.get(role)
        if known is None or known.digest != family.checkpoints[role].digest:
            return frozenset()
    return frozenset(report.fitted)
