"""The picture of a consensus run: accuracy by samples, and where it stopped."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from mergekit_darwin import plots
from mergekit_darwin.delphi.report import GREEDY, STOPPED, Report, TaskReport

_MOST_ROWS = 6


def draw_report(report: Report, path: Path) -> None:
    """Draw a row a task (six at most, the pooled one first) and write it to path."""
    names = sorted(report.tasks, key=lambda name: name != "all")[:_MOST_ROWS]
    figure = plots.figure(9.5, 3.2 * len(names))
    rows = figure.subplots(
        len(names), 2, squeeze=False, gridspec_kw={"width_ratios": [3, 2]}
    )
    for name, (left, right) in zip(names, rows, strict=True):
        _accuracy(left, report.tasks[name], plots.plain(name))
        _stops(right, report.tasks[name])
    plots.save(figure, path)


def _accuracy(axes: Any, task: TaskReport, name: str) -> None:
    counts = task.curve.samples
    means = [found.mean for found in task.curve.accuracy]
    errors = [found.stderr for found in task.curve.accuracy]
    axes.errorbar(
        counts,
        means,
        errors,
        color=plots.CHILD,
        marker="o",
        ms=3.5,
        lw=1.2,
        capsize=2,
    )
    axes.plot([], [], color=plots.CHILD, marker="o", ms=3.5, label="vote")
    if GREEDY in task.scores:
        greedy = task.scores[GREEDY].mean
        axes.axhline(greedy, color=plots.OTHER, ls="--", lw=1.2, label="greedy")
    stopped = task.scores[STOPPED].mean
    axes.plot(
        [task.cost.mean],
        [stopped],
        "D",
        color=plots.MOTHER,
        ms=6,
        label="stopped vote",
    )
    if task.curve.agreement:
        axes.plot(
            counts,
            task.curve.agreement,
            color=plots.FATHER,
            lw=1.2,
            label="agreement with the full vote",
        )
    axes.set(title=name, xlabel="samples an item", ylabel="mean over items")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _stops(axes: Any, task: TaskReport) -> None:
    stops = task.cost.stopped_at
    gaps = [after - before for before, after in pairwise(stops)]
    width = 0.8 * min(gaps, default=1)
    axes.bar(list(stops), list(stops.values()), color=plots.FATHER, width=width)
    for look, count in stops.items():
        axes.annotate(str(count), (look, count), ha="center", va="bottom", fontsize=8)
    mean = f"mean {task.cost.mean:.1f}"
    axes.axvline(task.cost.mean, color=plots.MOTHER, lw=1.2, ls="--", label=mean)
    axes.legend(fontsize=8, loc="upper left")
    axes.set(
        title=f"{task.cost.saved:.0%} of {task.cost.full} samples saved",
        xlabel="stopped after so many samples",
        ylabel="items",
        xticks=list(stops),
        xlim=(0, task.cost.full + 2),
    )
    axes.margins(y=0.25)
