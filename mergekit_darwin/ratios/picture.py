"""The picture of a ratio table: layers by components, from Father to Mother."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from mergekit_darwin import plots
from mergekit_darwin.models.names import stack_depths
from mergekit_darwin.ratios.rules import Prescription, routes_of

_COMPONENTS = ("attn", "ffn", "embed", "global")
_SMALLEST_SPAN = 0.01  # below it differences are not worth a colour
_MOST_WRITTEN = 16  # layers up to which cells carry their number
_MOST_LOOSE = 10


@dataclass(frozen=True)
class _Cell:
    """Tensors drawn as one: their mean ratio, how many, how many from one parent."""

    ratio: float
    count: int
    father: int
    mother: int

    @property
    def mark(self) -> str:
        if self.father == self.count:
            return "F"
        if self.mother == self.count:
            return "M"
        return "·" if self.father or self.mother else ""


@dataclass(frozen=True)
class _Panel:
    """One heat map: cells by row label and column."""

    title: str
    rows: tuple[str, ...]
    columns: int
    cells: dict[tuple[str, int], _Cell]
    room: int = 0  # columns left empty behind the last


def plot_ratios(rows: Iterable[Prescription], path: str | Path) -> None:
    """Write the picture of a ratio table to a file whose suffix names the format.

    One panel a stack, layers across, components down; below them the tensors outside
    any layer. The colour is the mean ratio, on one scale around 0.5 as wide as the
    blends reach; F and M mark transplants, a dot cells that hold some.
    """
    rows = list(rows)
    panels = [*_stacks(rows), *_outside(rows)]
    span = _span(rows)
    heights = [(0.27 if p.room else 0.42) * len(p.rows) for p in panels]
    width = min(16.0, max(7.0, 2.6 + 0.22 * max(p.columns for p in panels)))
    figure = plots.figure(width, sum(heights) + 0.95 * len(panels) + 1.0)
    axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    norm = Normalize(0.5 - span, 0.5 + span)
    for axis, panel in zip(axes, panels, strict=True):
        _draw(axis, panel, norm)
    _key(figure, list(axes), norm, rows)
    plots.save(figure, Path(path))


def _span(rows: list[Prescription]) -> float:
    """Return how far blends reach from 0.5, rounded up to a whole hundredth."""
    reach = max((abs(r.ratio - 0.5) for r in rows if r.route == "blend"), default=0.0)
    return max(_SMALLEST_SPAN, min(0.5, float(np.ceil(reach * 100.0)) / 100.0))


def _cell(rows: list[Prescription]) -> _Cell:
    return _Cell(
        ratio=sum(row.ratio for row in rows) / len(rows),
        count=len(rows),
        father=sum(row.route == "father" for row in rows),
        mother=sum(row.route == "mother" for row in rows),
    )


def _stacks(rows: list[Prescription]) -> list[_Panel]:
    depths = stack_depths(row.name for row in rows)
    panels = []
    for stack, depth in sorted(depths.items(), key=lambda item: (-item[1], item[0])):
        groups: dict[tuple[str, int], list[Prescription]] = defaultdict(list)
        for row in rows:
            if row.site.stack == stack and row.site.layer is not None:
                groups[row.site.component, row.site.layer].append(row)
        found = {component for component, _ in groups}
        labels = tuple(label for label in _COMPONENTS if label in found)
        cells = {place: _cell(group) for place, group in groups.items()}
        panels.append(_Panel(f"{stack}, {depth} layers", labels, depth, cells))
    return panels


def _outside(rows: list[Prescription]) -> list[_Panel]:
    """Return the panel of the tensors outside any layer, one a row, or none."""
    loose = [row for row in rows if row.site.layer is None]
    groups = defaultdict(list)
    for row in loose:
        label = row.site.component if len(loose) > _MOST_LOOSE else _short(row.name)
        groups[label].append(row)
    cells = {(label, 0): _cell(group) for label, group in groups.items()}
    if not cells:
        return []
    return [_Panel("outside the layers", tuple(groups), 1, cells, room=5)]


def _short(name: str) -> str:
    parts = name.removesuffix(".weight").split(".")
    return ".".join(parts[-2:])


def _draw(axis: Any, panel: _Panel, norm: Normalize) -> None:
    axis.imshow(_image(panel), cmap=plots.PARENTS_MAP, norm=norm, aspect="auto")
    axis.set_title(plots.plain(panel.title), loc="left", fontsize=10)
    axis.set_yticks(range(len(panel.rows)), panel.rows, fontsize=8)
    step = 1 if panel.columns <= 32 else 5
    ticks = range(0, panel.columns, step) if panel.columns > 1 else []
    axis.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    axis.set_xticks(np.arange(-0.5, panel.columns), minor=True)
    axis.set_yticks(np.arange(-0.5, len(panel.rows)), minor=True)
    axis.grid(which="minor", color="white", linewidth=0.6)
    axis.tick_params(which="both", length=0)
    axis.set_facecolor("white" if panel.room else "#d9d9d9")
    axis.set_xlim(-0.5, panel.columns + panel.room - 0.5)
    for spine in axis.spines.values():
        spine.set_visible(False)
    for (label, column), cell in panel.cells.items():
        _write(axis, panel, column, panel.rows.index(label), cell, norm)


def _image(panel: _Panel) -> npt.NDArray[np.float64]:
    """Return the ratios, [rows, columns], NaN where there is no tensor."""
    image = np.full((len(panel.rows), panel.columns), np.nan)
    for (label, column), cell in panel.cells.items():
        image[panel.rows.index(label), column] = cell.ratio
    return image


def _write(
    axis: Any, panel: _Panel, column: int, row: int, cell: _Cell, norm: Normalize
) -> None:
    text = cell.mark
    if panel.columns <= _MOST_WRITTEN:
        text = f"{text} {cell.ratio:.3f}".strip()
    strong = abs(float(norm(cell.ratio)) - 0.5) > 0.32
    axis.text(
        column,
        row,
        text,
        ha="center",
        va="center",
        fontsize=8,
        fontweight="bold" if cell.mark else "normal",
        color="white" if strong else "black",
    )


def _key(
    figure: Figure, axes: list[Any], norm: Normalize, rows: list[Prescription]
) -> None:
    bar = figure.colorbar(
        ScalarMappable(norm, plots.PARENTS_MAP),
        ax=axes,
        orientation="horizontal",
        extend="both",
        fraction=0.03,
        aspect=50,
        pad=0.03,
    )
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 1.0)
    bar.set_ticks(
        [low, 0.5, high], labels=[f"{low:.2f} Father", "0.5", f"{high:.2f} Mother"]
    )
    bar.ax.tick_params(labelsize=8)
    counts = routes_of(rows)
    figure.suptitle(
        f"Ratio of {len(rows)} tensors: {counts['father']} Father's (F),"
        f" {counts['mother']} Mother's (M), {counts['blend']} blended;"
        " · = some transplants",
        fontsize=10,
    )
