"""From importance, losses and answers to findings: pure rules, numbers in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from mergekit_darwin.health.report import Answer, Finding, finding
from mergekit_darwin.health.thresholds import Severity, Thresholds

_LARGEST = 50.0  # nats, so that a ratio stays finite; a ratio where one parent has 0
_LOOP = 8  # tokens of an answer that a loop must fill before it counts; our choice


def importance_findings(
    child: Mapping[str, Sequence[float]],
    father: Mapping[str, Sequence[float]],
    mother: Mapping[str, Sequence[float]],
    thresholds: Thresholds,
) -> list[Finding]:
    """Return interference and function loss, by probe and layer.

    Each argument holds [L] cosine distances by probe, for the same probes and L.
    Interference: the child's importance is above 1.5 x the larger parent's and the
    floor; a warning above 2.5 x, as whole task vectors added up reach 1.9 x. Function
    loss: a layer is in a parent's top quarter, and the child has less than half of
    that parent's importance there. It is a note as long as the child has half of the
    other parent's (it follows that one), an error where it has less than a tenth of
    either. Source: our choice (DESIGN: health).
    """
    found: list[Finding] = []
    for probe in child:
        rows = (child[probe], father[probe], mother[probe])
        found += _interference(probe, *rows, thresholds)
        found += _function_loss(probe, *rows, thresholds)
    return found


def _interference(
    probe: str,
    child: Sequence[float],
    father: Sequence[float],
    mother: Sequence[float],
    thresholds: Thresholds,
) -> Iterable[Finding]:
    for layer, value in enumerate(child):
        larger = max(father[layer], mother[layer])
        if value > max(thresholds.interference * larger, thresholds.interference_floor):
            share = value / larger if larger > 0.0 else _LARGEST
            bad = share > thresholds.interference_warning
            yield finding(
                "interference",
                "warning" if bad else "note",
                share,
                f"at most {thresholds.interference:g}",
                layer=layer,
                probe=probe,
            )


def _function_loss(
    probe: str,
    child: Sequence[float],
    father: Sequence[float],
    mother: Sequence[float],
    thresholds: Thresholds,
) -> Iterable[Finding]:
    lines = [top_line(row, thresholds.function_quarter) for row in (father, mother)]
    for layer, value in enumerate(child):
        parents = (father[layer], mother[layer])
        shares = [
            value / row
            for row, line in zip(parents, lines, strict=True)
            if row >= max(line, thresholds.interference_floor) and row > 0.0
        ]
        if shares and min(shares) < thresholds.function_loss:
            yield finding(
                "function_loss",
                _loss_severity(value, min(parents), thresholds),
                min(shares),
                f"at least {thresholds.function_loss:g}",
                layer=layer,
                probe=probe,
            )


def _loss_severity(value: float, smaller: float, thresholds: Thresholds) -> Severity:
    """A note where the child is no lower than the other parent lets one expect."""
    if value >= thresholds.function_loss * smaller:
        return "note"
    return "error" if value < thresholds.function_error * smaller else "warning"


def top_line(row: Sequence[float], share: float) -> float:
    """Return the least value among the top share of a row, at least one value.

    Infinite for an empty row, so that nothing reaches it.
    """
    if not row:
        return math.inf
    count = max(1, math.floor(share * len(row)))
    return sorted(row, reverse=True)[count - 1]


def perplexity_findings(
    child: Mapping[str, float],
    father: Mapping[str, float],
    mother: Mapping[str, float],
    thresholds: Thresholds,
) -> list[Finding]:
    """Return the probes that the child understands far worse than both parents.

    Losses are in nats a token; found is the ratio of perplexities, the child's over
    the worse parent's. Source: our choice.
    """
    found = []
    for probe, loss in child.items():
        worse = max(father[probe], mother[probe])
        ratio = math.exp(min(_LARGEST, loss - worse))
        severity: Severity = "warning"
        if ratio > thresholds.perplexity_error:
            severity = "error"
        elif ratio <= thresholds.perplexity_warning:
            continue
        expected = f"at most {thresholds.perplexity_warning:g}"
        found.append(finding("perplexity", severity, ratio, expected, probe=probe))
    return found


def fault_of(tokens: Sequence[int], text: str) -> str:
    """Return how a greedy answer collapsed, or "" if it did not.

    Empty: no visible text. Repeating: its last eight tokens or more, and at least
    half of it, are one or two tokens over and over. Unprintable: fewer than half of
    its characters can be printed. Source: our choice.
    """
    visible = text.strip()
    if not visible:
        return "empty"
    printable = sum(char.isprintable() and char != "\ufffd" for char in visible)
    if 2 * printable < len(visible):
        return "unprintable"
    if _tail_loop(tokens) >= max(_LOOP, len(tokens) / 2):
        return "repeating"
    return ""


def _tail_loop(tokens: Sequence[int]) -> int:
    """Return the length of the longest tail of a period of one or two tokens."""
    longest = 0
    for period in (1, 2):
        length = period
        while length < len(tokens) and (
            tokens[-1 - length] == tokens[period - 1 - length]
        ):
            length += 1
        if length >= 2 * period:
            longest = max(longest, length)
    return longest


def answer_findings(answers: Iterable[Answer], thresholds: Thresholds) -> list[Finding]:
    """Return a collapse if the child's answers fail more often than both parents'.

    found is the child's share of collapsed answers; it alarms above the larger share
    of the parents by the threshold or more. Source: our choice.
    """
    rows = list(answers)
    shares = {role: _collapsed(rows, role) for role in ("child", "father", "mother")}
    least = max(shares["father"] or 0.0, shares["mother"] or 0.0)
    child = shares["child"]
    if child is None or child < least + thresholds.collapse:
        return []
    faults = sorted({row.fault for row in rows if row.model == "child" and row.fault})
    return [
        finding(
            "collapse",
            "error",
            f"{child:.0%} of the answers: {', '.join(faults)}",
            f"less than {least + thresholds.collapse:.0%} (parents {least:.0%})",
        )
    ]


def _collapsed(rows: Sequence[Answer], role: str) -> float | None:
    own = [bool(row.fault) for row in rows if row.model == role]
    return sum(own) / len(own) if own else None
