"""refit.png: how far the child's layers are from its parents', before and after."""

from __future__ import annotations

from pathlib import Path

from matplotlib.ticker import MaxNLocator

from mergekit_darwin.plots import CHILD, FATHER, MOTHER, OTHER, figure, plain, save
from mergekit_darwin.refit.report import Losses, RefitReport


def draw_refit(report: RefitReport, file: Path) -> None:
    """Draw drift by layer at both parents' texts, and the losses on all three."""
    made = figure(11.0, 4.2)
    panels = made.subplots(1, 3, width_ratios=[2, 2, 1.5])
    layers = range(len(report.layers))
    sides = (("Father", FATHER), ("Mother", MOTHER))
    for axes, (role, colour) in zip(panels[:2], sides, strict=True):
        key = role.lower()
        before = [getattr(row, f"{key}_before") for row in report.layers]
        after = [getattr(row, f"{key}_after") for row in report.layers]
        axes.plot(layers, before, color=OTHER, linestyle="--", label="before")
        axes.plot(layers, after, color=colour, label="after")
        axes.fill_between(layers, after, before, color=colour, alpha=0.12, linewidth=0)
        axes.set_title(f"on the {role}'s texts")
        axes.set_xlabel("layer")
        axes.set_ylim(bottom=0.0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    panels[0].set_ylabel("distance of the stream from that parent's")
    _losses(panels[2], report)
    made.suptitle(plain(f"refit of {Path(report.models['child'].model).name}"))
    save(made, file)


def _losses(axes, report: RefitReport) -> None:  # type: ignore[no-untyped-def]
    groups: list[tuple[str, Losses]] = [
        ("Father's\ntexts", report.father_texts),
        ("Mother's\ntexts", report.mother_texts),
        ("general\ntext", report.general),
    ]
    bars = (
        ("father", FATHER, "Father"),
        ("mother", MOTHER, "Mother"),
        ("before", OTHER, "child before"),
        ("after", CHILD, "child after"),
    )
    for place, (key, colour, name) in enumerate(bars):
        heights = [getattr(losses, key) for _, losses in groups]
        at = [i + (place - 1.5) * 0.2 for i in range(len(groups))]
        axes.bar(at, heights, 0.19, color=colour, label=name)
    axes.set_xticks(range(len(groups)), [name for name, _ in groups])
    axes.set_title("loss, nats a token")
    axes.legend(frameon=False, fontsize=8)
