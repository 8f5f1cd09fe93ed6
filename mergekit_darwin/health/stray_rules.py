"""What a tensor far from its parents' plane is a sign of: damage, or less precision."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable

from mergekit_darwin.health.facts import TensorFacts
from mergekit_darwin.health.report import Finding, Value, finding
from mergekit_darwin.health.stray import Stray
from mergekit_darwin.health.thresholds import Severity, Thresholds

_KINDS = 4  # tensors of a kind that make a median; our choice
_APART = 4.0  # a child may turn this much more than the parents do; our choice


def finding_of(
    row: TensorFacts, rule: str, severity: Severity, found: Value, expected: Value
) -> Finding:
    """Return a finding on one tensor."""
    return finding(rule, severity, found, expected, layer=row.layer, tensor=row.name)


def usual_distances(facts: Iterable[TensorFacts]) -> dict[str, float]:
    """Return the median stray distance of each kind with at least four tensors."""
    rows: dict[str, list[float]] = defaultdict(list)
    for row in facts:
        if row.stray is not None:
            rows[row.kind].append(row.stray.distance)
    return {k: statistics.median(v) for k, v in rows.items() if len(v) >= _KINDS}


def stray_findings(
    row: TensorFacts, usual: float | None, thresholds: Thresholds
) -> list[Finding]:
    """Return what is far off: the whole tensor, or rows and columns of it.

    usual is the median distance of the tensors of its kind, None of too few. What a
    coarser grid of values explains is only a note.
    """
    stray = row.stray
    if stray is None:
        return []
    most = max(thresholds.turned, _APART * stray.apart)
    if stray.turned > most:
        return [finding_of(row, "turned", "error", stray.turned, f"at most {most:.3g}")]
    if _is_quantised(row, stray, thresholds):
        words = f"{stray.share:.2f} of the norm, on a grid of fewer values"
        return [finding_of(row, "quantised", "note", words, "values as the parents'")]
    return [*_stray(row, stray, usual, thresholds), *_lines(row, stray, thresholds)]


def _is_quantised(row: TensorFacts, stray: Stray, thresholds: Thresholds) -> bool:
    if not 0.0 < stray.share <= thresholds.quantised or len(row.grids) < 3:
        return False
    parents = min(row.grids["father"], row.grids["mother"])
    return row.grids["child"] < thresholds.grid * parents


def _stray(
    row: TensorFacts, stray: Stray, usual: float | None, thresholds: Thresholds
) -> Iterable[Finding]:
    """Far from the parents' plane: by itself, or among the tensors of its kind.

    Vectors (norms, biases) have too few elements for that alone: they must be far
    off as a share of their norm too.
    """
    vector = len(row.shapes["child"]) < 2
    most = _most_distance(stray, None if vector else usual, thresholds)
    if stray.distance <= most or (stray.based and stray.calm <= thresholds.calm):
        return
    if not vector or stray.share > thresholds.stray_vector:
        yield finding_of(row, "stray", "error", stray.distance, f"at most {most:.3g}")


def _most_distance(stray: Stray, usual: float | None, thresholds: Thresholds) -> float:
    most, floor = thresholds.stray, thresholds.stray_floor
    if not stray.based:
        most, floor = thresholds.stray_blind, thresholds.stray_floor_blind
    if usual is None:
        return most
    return min(most, max(floor, thresholds.stray_outlier * usual))


def _lines(row: TensorFacts, stray: Stray, thresholds: Thresholds) -> Iterable[Finding]:
    """Single rows or columns far off: a warning for few of them, an error for many."""
    width = row.shapes["child"][-1]
    height = math.prod(row.shapes["child"]) // width if width else 0
    for what, off, count in (
        ("rows", stray.rows, height),
        ("columns", stray.columns, width),
    ):
        if off:
            severity: Severity = (
                "error" if off > thresholds.lines * count else "warning"
            )
            yield finding_of(row, "lines", severity, f"{off} of {count} {what}", 0)
