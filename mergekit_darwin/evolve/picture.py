"""Pictures of a breeding run; each function writes one PNG from plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mergekit_darwin import plots


def plot_scores(
    path: Path,
    scores: Sequence[float | None],
    expected: Sequence[float | None],
    generations: Sequence[int],
    parents: Mapping[str, float],
) -> None:
    """Draw the score of every real evaluation, the best so far, and the parents'."""
    figure = plots.figure(8, 4.2)
    axes = figure.subplots()
    numbers = np.arange(1, len(scores) + 1)
    real = np.array([np.nan if s is None else s for s in scores])
    guess = np.array([np.nan if s is None else s for s in expected])
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
    colours = {"father": plots.FATHER, "mother": plots.MOTHER, "base": plots.OTHER}
    for name, value in parents.items():
        axes.axhline(value, color=colours.get(name, plots.OTHER), ls="--", lw=1)
        axes.annotate(
            plots.plain(name),
            (1.005, value),
            xycoords=("axes fraction", "data"),
            color=colours.get(name, plots.OTHER),
            va="center",
            fontsize=9,
        )
    for i in range(1, len(generations)):
        if generations[i] != generations[i - 1]:
            axes.axvline(i + 0.5, color="#efefef", lw=1, zorder=0)
    axes.set_xlabel("real evaluation (vertical lines: generations)")
    axes.set_ylabel("score on the search items")
    axes.legend(
        frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1)
    )
    axes.spines[["top", "right"]].set_visible(False)
    plots.save(figure, path)


def plot_genome(
    path: Path,
    names: Sequence[str],
    genomes: Sequence[Sequence[float]],
    best: Sequence[float],
    neutral: Sequence[float],
    bounds: Sequence[tuple[float, float]],
) -> None:
    """Draw every gene over the evaluations, and the final value against neutral.

    Values are shown as their place in the gene's search interval.
    """
    low = np.array([b[0] for b in bounds])
    width = np.array([b[1] - b[0] for b in bounds])
    rows = ((np.array(genomes) - low) / width).T  # [genes, evaluations]
    figure = plots.figure(9.5, 0.3 * len(names) + 1.4)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2], sharey=True)
    image = left.imshow(
        rows,
        aspect="auto",
        cmap=plots.PARENTS,
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(0.5, rows.shape[1] + 0.5, len(names) - 0.5, -0.5),
    )
    left.set_yticks(range(len(names)), names, fontsize=9)
    left.set_xlabel("real evaluation")
    left.set_title("gene over time", fontsize=10)
    figure.colorbar(image, ax=left, shrink=0.8, label="place in the search interval")
    place = np.arange(len(names))
    final = (np.array(best) - low) / width
    start = (np.array(neutral) - low) / width
    right.hlines(place, start, final, color="#bdbdbd", lw=2)
    right.plot(start, place, "|", color=plots.OTHER, ms=11, mew=2, label="neutral")
    right.plot(final, place, "o", color=plots.CHILD, ms=6, label="final")
    for i, value in enumerate(best):
        right.annotate(
            f"{value:.3f}", (1.06, i), fontsize=8, va="center", annotation_clip=False
        )
    right.set_xlim(-0.05, 1.05)
    right.set_title("final against neutral", fontsize=10)
    right.set_xlabel("place in the search interval")
    right.legend(
        frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1.04)
    )
    right.spines[["top", "right"]].set_visible(False)
    plots.save(figure, path)


def plot_heldout(
    path: Path,
    rows: Sequence[tuple[str, float, float | None]],
    title: str = "score on the held-out items, with standard errors",
) -> None:
    """Draw held-out scores with their standard errors, the child last."""
    figure = plots.figure(7.5, 0.38 * len(rows) + 1.1)
    axes = figure.subplots()
    place = np.arange(len(rows))
    colours = {"father": plots.FATHER, "mother": plots.MOTHER, "child": plots.CHILD}
    for i, (name, score, error) in enumerate(rows):
        axes.barh(i, score, color=colours.get(name, "#bdbdbd"), height=0.65)
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
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    plots.save(figure, path)
