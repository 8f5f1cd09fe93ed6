"""health.png: importance of the child against its parents, findings marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mergekit_darwin import plots
from mergekit_darwin.health.report import NAMES, Finding, Health
from mergekit_darwin.health.thresholds import RANKS, Severity
from mergekit_darwin.models.names import site_of

_MARKS = {"interference": "^", "function_loss": "v"}
_SEVERITY = {"note": plots.NOTE, "warning": plots.WARNING, "error": plots.ERROR}
_VERDICT = {
    "healthy": plots.SOUND,
    "warning": "#b87800",  # darker, to be read as text
    "unhealthy": plots.ERROR,
}
_STRIP = ListedColormap(["#eef3f0", "#cfcfcf", plots.WARNING, plots.ERROR])
_PARTS = ("attn", "ffn", "other")
_OUTSIDE = 6  # findings without a layer that are written below the picture


def save_health_plot(health: Health, path: Path) -> None:
    """Write the picture of a health report as PNG.

    One panel a probe: importance (cosine distance, in [0, 2]) by layer for Father,
    Mother and child; below, the worst finding on the weights of each layer and part.
    """
    probes = list(health.measured.importance.get("child", {}))
    depth = _depth(health)
    columns = 1 if len(probes) < 3 else 2
    rows = -(-len(probes) // columns)
    width = min(20.0, max(9.0, columns * (2.5 + 0.11 * depth)))
    figure = plots.figure(width, 2.5 + 2.2 * rows)
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[*[2.2] * rows, 1.0])
    for place, probe in enumerate(probes):
        row, column = divmod(place, columns)
        _draw_probe(figure.add_subplot(grid[row, column]), health, probe)
    if len(probes) < rows * columns:
        free = figure.add_subplot(grid[rows - 1, columns - 1])
        free.axis("off")
        free.legend(
            handles=_handles(), loc="center", frameon=False, fontsize=9, ncols=2
        )
    else:
        figure.legend(
            handles=_handles(),
            loc="outside lower center",
            frameon=False,
            fontsize=8,
            ncols=4 if columns == 1 else 8,
        )
    _draw_weights(figure.add_subplot(grid[rows, :]), health, depth)
    counts = health.counts
    figure.suptitle(
        f"{plots.plain(_short(health.child))}: {health.verdict} -"
        f" {counts['errors']} errors, {counts['warnings']} warnings,"
        f" {counts['notes']} notes",
        color=_VERDICT[health.verdict],
        fontweight="bold",
    )
    plots.save(figure, path)


def _short(name: str) -> str:
    return Path(name).name or name


def _depth(health: Health) -> int:
    rows = [len(row) for row in health.measured.importance.get("child", {}).values()]
    return max([1, health.counts.get("layers", 0), *rows])


def _draw_probe(axes: Any, health: Health, probe: str) -> None:
    importance = health.measured.importance
    for role in ("father", "mother", "child"):
        row = importance.get(role, {}).get(probe)
        if row:
            dots = "o" if len(row) <= 40 else ""
            axes.plot(
                range(len(row)),
                row,
                color=plots.ROLES[role],
                linewidth=2.0 if role == "child" else 1.3,
                marker=dots,
                markersize=3,
            )
    _mark_findings(axes, health, probe)
    title, colour = _title(health, probe)
    axes.set_title(plots.plain(title), fontsize=8, color=colour)
    axes.set_ylim(bottom=0.0)
    axes.margins(x=0.02)
    axes.set_ylabel("importance", fontsize=8)
    axes.set_xlabel("layer", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)


def _mark_findings(axes: Any, health: Health, probe: str) -> None:
    child = health.measured.importance["child"][probe]
    for item in health.findings:
        if item.probe == probe and item.layer is not None and item.rule in _MARKS:
            axes.plot(
                item.layer,
                child[item.layer],
                _MARKS[item.rule],
                color=_SEVERITY[item.severity],
                markeredgecolor="white",
                markersize=10,
                zorder=5,
                clip_on=False,
            )


def _title(health: Health, probe: str) -> tuple[str, str]:
    """Return a panel's title, the losses in it, and the colour of its worst finding."""
    loss = health.measured.loss
    words = ", ".join(
        f"{NAMES[role]} {loss[role][probe]:.2f}"
        for role in ("father", "mother", "child")
        if probe in loss.get(role, {})
    )
    worst = _worst([row for row in health.findings if row.probe == probe])
    colour = _SEVERITY[worst] if worst in ("warning", "error") else plots.CHILD
    return f"{probe}   loss {words}" if words else probe, colour


def _worst(found: Sequence[Finding]) -> Severity | None:
    ranked = sorted((item.severity for item in found), key=lambda key: RANKS[key])
    return ranked[-1] if ranked else None


def _handles() -> list[Any]:
    handles: list[Any] = [
        Line2D([], [], color=plots.ROLES[role], linewidth=2, label=NAMES[role])
        for role in ("father", "mother", "child")
    ]
    for rule, mark in _MARKS.items():
        label = rule.replace("_", " ")
        handles.append(
            Line2D([], [], linestyle="", marker=mark, color="#666666", label=label)
        )
    handles += [Patch(color=_SEVERITY[key], label=key) for key in _SEVERITY]
    return handles


def _draw_weights(axes: Any, health: Health, depth: int) -> None:
    worst = [[0] * depth for _ in _PARTS]
    outside: list[Finding] = []
    for item in health.findings:
        if item.tensor is None or item.layer is None or item.layer >= depth:
            if item.probe is None:
                outside.append(item)
            continue
        row = worst[_part(item.tensor)]
        row[item.layer] = max(row[item.layer], RANKS[item.severity])
    axes.imshow(worst, aspect="auto", cmap=_STRIP, vmin=0, vmax=3)
    axes.set_yticks(range(len(_PARTS)), _PARTS, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xticks([edge - 0.5 for edge in range(1, depth)], minor=True)
    axes.set_yticks([0.5, 1.5], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2 if depth <= 60 else 0.5)
    axes.tick_params(which="both", length=0, labelsize=8)
    axes.set_title("findings on weights, by layer and part", fontsize=9)
    axes.set_xlabel(plots.plain(_outside_words(outside)), fontsize=8, loc="left")


def _part(tensor: str) -> int:
    component = site_of(tensor).component
    return _PARTS.index(component) if component in _PARTS else len(_PARTS) - 1


def _outside_words(found: list[Finding]) -> str:
    if not found:
        return "layer"
    order = sorted(found, key=lambda item: -RANKS[item.severity])
    lines = [
        f"{item.severity}: {item.rule}, {item.tensor or 'model'}: {_clip(item.found)}"
        for item in order[:_OUTSIDE]
    ]
    if len(found) > _OUTSIDE:
        lines.append(f"and {len(found) - _OUTSIDE} more outside the layers")
    return "\n".join(["layer", *lines])


def _clip(value: object) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 90 else text[:87] + "..."
