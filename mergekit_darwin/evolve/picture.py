"""Pictures of a breeding run; each function writes one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mergekit_darwin import plots
from mergekit_darwin.evolve.compare import Comparison
from mergekit_darwin.evolve.fitness import combined_error
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.ratios.genome import Genome, make_genome
from mergekit_darwin.search.space import Array, Space


def plot_scores(
    path: Path, lines: Sequence[Evaluation], family: Sequence[Evaluation]
) -> None:
    """Draw the score of every real evaluation, the best so far, and the family's."""
    figure = plots.figure(8, 4.2)
    axes = figure.subplots()
    numbers = np.arange(1, len(lines) + 1)
    real = np.array([line.score for line in lines], dtype=float)  # None: NaN
    guess = np.array([line.proxy for line in lines], dtype=float)
    axes.vlines(numbers, real, guess, color="#d9d9d9", lw=1, zorder=1)
    axes.plot(numbers, guess, "_", color=plots.OTHER, ms=8, label="proxy's expectation")
    axes.plot(numbers, real, "o", color=plots.CHILD, ms=4.5, label="measured")
    best = np.fmax.accumulate(real)
    axes.step(
        numbers, best, where="post", color=plots.CHILD, lw=1.5, label="best so far"
    )
    failed = np.flatnonzero(np.isnan(real))
    if len(failed):
        low = np.nanmin(real) if np.isfinite(real).any() else 0.0
        axes.plot(numbers[failed], np.full(len(failed), low), "x", color=plots.MOTHER)
    for line in family:
        _draw_level(axes, line)
    for i in range(1, len(lines)):
        if lines[i].generation != lines[i - 1].generation:
            axes.axvline(i + 0.5, color="#efefef", lw=1, zorder=0)
    axes.set_xlabel("real evaluation (vertical lines: generations)")
    axes.set_ylabel("score on the search items")
    axes.legend(
        frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1)
    )
    axes.spines[["top", "right"]].set_visible(False)
    plots.save(figure, path)


def _draw_level(axes: Any, line: Evaluation) -> None:
    colour, level = plots.ROLES.get(line.name, plots.OTHER), line.score or 0.0
    axes.axhline(level, color=colour, ls="--", lw=1)
    axes.annotate(
        plots.plain(line.name),
        (1.005, level),
        xycoords=("axes fraction", "data"),
        color=colour,
        va="center",
        fontsize=9,
    )


def plot_genome(
    path: Path, space: Space, lines: Sequence[Evaluation], final: Genome
) -> None:
    """Draw every gene over the evaluations, and the final value against neutral.

    Values are shown as their place in the gene's search interval.
    """
    names = [gene.name for gene in space.genes]
    rows = np.array([space.encode(line.made_of) for line in lines]).T
    figure = plots.figure(9.5, 0.3 * len(names) + 1.4)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2], sharey=True)
    image = left.imshow(
        rows,
        aspect="auto",
        cmap=plots.PARENTS_MAP,
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(0.5, rows.shape[1] + 0.5, len(names) - 0.5, -0.5),
    )
    left.set_yticks(range(len(names)), names, fontsize=9)
    left.set_xlabel("real evaluation")
    left.set_title("gene over time", fontsize=10)
    figure.colorbar(image, ax=left, shrink=0.8, label="place in the search interval")
    neutral = space.encode(make_genome({}, space.blocks))
    _draw_final(right, space.encode(final), neutral, [final[name] for name in names])
    plots.save(figure, path)


def _draw_final(axes: Any, final: Array, neutral: Array, values: list[float]) -> None:
    place = np.arange(len(values))
    axes.hlines(place, neutral, final, color="#bdbdbd", lw=2)
    axes.plot(neutral, place, "|", color=plots.OTHER, ms=11, mew=2, label="neutral")
    axes.plot(final, place, "o", color=plots.CHILD, ms=6, label="final")
    for i, value in enumerate(values):
        axes.annotate(
            f"{value:.3f}", (1.06, i), fontsize=8, va="center", annotation_clip=False
        )
    axes.set_xlim(-0.05, 1.05)
    axes.set_title("final against neutral", fontsize=10)
    axes.set_xlabel("place in the search interval")
    axes.legend(
        frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1.04)
    )
    axes.spines[["top", "right"]].set_visible(False)


def plot_heldout(path: Path, table: Comparison) -> None:
    """Draw held-out scores with their standard errors, the child last."""
    rows = [
        (row.name, row.score, combined_error(table.tasks, row))
        for row in table.rows
        if row.score is not None
    ]
    figure = plots.figure(7.5, 0.38 * len(rows) + 1.1)
    axes = figure.subplots()
    place = np.arange(len(rows))
    for i, (name, score, error) in enumerate(rows):
        axes.barh(i, score, color=plots.ROLES.get(name, "#bdbdbd"), height=0.65)
        axes.errorbar(score, i, xerr=error or 0.0, color="black", capsize=3, lw=1)
        axes.annotate(
            f"{score:.3f}",
            (score + (error or 0.0), i),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(place, [plots.plain(name) for name, _, _ in rows])
    axes.invert_yaxis()
    lowest = min(score for _, score, _ in rows)
    highest = max(score + (error or 0.0) for _, score, error in rows)
    axes.set_xlim(min(0.0, lowest), highest * 1.12 if highest > 0 else 0.0)
    axes.set_title("score on the held-out items, with standard errors", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    plots.save(figure, path)
