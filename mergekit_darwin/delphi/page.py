"""report.md: what a consensus run found, in words and tables."""

from __future__ import annotations

from collections.abc import Iterable

from mergekit_darwin.delphi.compare import Difference, Mean
from mergekit_darwin.delphi.report import (
    FULL,
    GREEDY,
    ONE,
    SENTENCE,
    STOPPED,
    Report,
    TaskReport,
)
from mergekit_darwin.errors import quoted

_MOST_NAMED = 20


def markdown(report: Report, picture: str) -> str:
    """Return the page; picture is the name of the picture that lies beside it."""
    parts = [
        f"# Consensus of {quoted(report.model)}",
        SENTENCE,
        "## Scores\n\n" + _scores(report),
        "## Differences\n\n" + _differences(report),
        "## Cost\n\n" + _costs(report),
        "## Promise\n\n" + _promise(report),
        f"![Accuracy over samples, and where drawing stopped]({picture})",
        "## Items that changed\n\n" + _changed(report),
        "## Settings\n\n" + _settings(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: str, rows: list[str]) -> str:
    columns = head.count("|") - 1
    return "\n".join([head, "| --- " + "| ---: " * (columns - 1) + "|", *rows])


def _scores(report: Report) -> str:
    kinds = [
        kind
        for kind in (GREEDY, ONE, FULL, STOPPED)
        if any(kind in task.scores for task in report.tasks.values())
    ]
    rows = [
        f"| {quoted(name)} ({quoted(task.metric)}) | {task.items} | "
        + " | ".join(_mean(task.scores.get(kind)) for kind in kinds)
        + " |"
        for name, task in report.tasks.items()
    ]
    words = {FULL: f"vote of all {report.plan.samples}"}
    heads = " | ".join(words.get(kind, kind) for kind in kinds)
    return (
        _table(f"| task | items | {heads} |", rows)
        + "\n\nMeans over items ± standard errors, all on the same items."
    )


def _mean(found: Mean | None) -> str:
    return "" if found is None else f"{found.mean:.4f} ± {found.stderr:.4f}"


def _differences(report: Report) -> str:
    rows = [
        f"| {quoted(name)} | {d.left} - {d.right} |"
        f" {d.difference:+.4f} ± {d.stderr:.4f} | {d.better} | {d.worse} | {_p(d)} |"
        for name, task in report.tasks.items()
        for d in task.differences
    ]
    head = "| task | compared | difference | items better | items worse | p |"
    return (
        _table(head, rows)
        + "\n\nPaired on items; p: exact McNemar test, two-sided, of scores 0 and 1."
    )


def _p(found: Difference) -> str:
    return "" if found.p is None else f"{found.p:.3g}"


def _costs(report: Report) -> str:
    rows = []
    for name, task in report.tasks.items():
        cost = task.cost
        stops = ", ".join(f"{n}: {c}" for n, c in cost.stopped_at.items())
        rows.append(
            f"| {quoted(name)} | {cost.mean:.2f} of {cost.full} | {cost.p90} |"
            f" {cost.saved:.1%} | {_tokens(task)} | {task.abstained:.1%} | {stops} |"
        )
    head = (
        "| task | samples an item | 90 % of items at most | samples saved | tokens |"
        " samples without answer | items by samples used |"
    )
    return _table(head, rows)


def _tokens(task: TaskReport) -> str:
    cost = task.cost
    if cost.tokens is None:
        return "not counted"
    if not cost.tokens_full:
        return f"{cost.tokens}"
    return f"{cost.tokens} of {cost.tokens_full}"


def _promise(report: Report) -> str:
    plan, worst = report.plan, report.worst
    votes = ":".join(str(count) for count in worst.votes if count)
    promise = (
        f"Up to {plan.samples} samples in stages of {plan.stage}; drawing stops once"
        " the lead can no longer be overtaken, or would be as large with a chance of at"
        f" most {plan.tolerance:.3g} if its answer lost. Risk asked for:"
        f" {report.risk:g}."
    )
    promise += (
        " The stopped vote is always that of all samples."
        if worst.chance == 0.0
        else " Enumerated over every composition of the samples into up to three"
        " answers and abstentions, whatever the model, the stopped winner misses the"
        f" most frequent answers in at most {worst.chance:.3%} of orders (worst at"
        f" {votes})."
    )
    seen = [
        f"{quoted(name)}: {task.agreement.share:.2%} of {task.items} items agree"
        + (f" (not: {_some(task.agreement.disagreeing)})" if apart else "")
        for name, task in report.tasks.items()
        if task.agreement is not None
        for apart in [task.agreement.disagreeing]
    ]
    drawn = "\n\nAll samples were drawn to check it. " + "; ".join(seen) + "."
    return promise + (drawn if seen else "")


def _changed(report: Report) -> str:
    if not any(task.gained or task.lost for task in report.tasks.values()):
        return "None: the stopped vote scores as greedy on every item."
    return "\n".join(
        f"- {name}: vote better than greedy on {_some(_numbers(task.gained))};"
        f" worse on {_some(_numbers(task.lost))}"
        for name, task in report.tasks.items()
        if name != "all"
    )


def _numbers(items: Iterable[str]) -> tuple[str, ...]:
    """Return the numbers of items of one task, named TASK:NUMBER."""
    return tuple(item.rpartition(":")[2] for item in items)


def _some(names: tuple[str, ...]) -> str:
    if not names:
        return "none"
    more = len(names) - _MOST_NAMED
    shown = ", ".join(map(quoted, names[:_MOST_NAMED]))
    return f"{len(names)} ({shown}{f' and {more} more' if more > 0 else ''})"


def _settings(report: Report) -> str:
    lines = [f"- {key}: {quoted(value, 500)}" for key, value in report.settings.items()]
    made = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return "\n".join([*lines, f"- made with: {made}"])
