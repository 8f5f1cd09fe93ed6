"""The pictures of a scan: layers by probes, and gains over the base."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from mergekit_darwin import plots
from mergekit_darwin.ratios.report_screen import layer_gains, layer_ratios
from mergekit_darwin.scan.report import Report

Grid = npt.NDArray[np.float64]


def draw(report: Report, folder: Path) -> list[str]:
    """Write mds.png and, if the report has gains, gains.png; returns their names."""
    draw_scan(report, folder / "mds.png")
    if not report.father.gain:
        return ["mds.png"]
    draw_gains(report, folder / "gains.png")
    return ["mds.png", "gains.png"]


def draw_scan(report: Report, file: Path) -> None:
    """Write mds.png: probe distances of both parents, and mri_ratio by layer.

    One row a layer, the first on top. The third panel shows how far the mean published
    mri_ratio of a layer's tensors lies from 0.5: left is Father, right is Mother.
    """
    names = list(report.settings.probes)
    grids = [
        np.array([model.probes[name] for name in names], dtype=float).T
        for model in (report.father, report.mother)
        if model.probes
    ]
    if not grids:
        return _draw_empty(file)
    depth = max(grid.shape[0] for grid in grids)
    figure = _figure(depth, 1.9 + 0.62 * len(names))
    most = max(float(grid.max()) for grid in grids)
    panels = figure.subplots(1, 3, width_ratios=[1, 1, 1])
    for axes, grid, role in zip(panels[:2], grids, ("Father", "Mother"), strict=True):
        image = _heat(axes, grid, depth, names, "viridis", (0.0, most))
        axes.set_title(role)
    figure.colorbar(
        image,
        ax=list(panels[:2]),
        location="bottom",
        shrink=0.6,
        aspect=40,
        label="cosine distance of the output without the layer",
    )
    _ratio_panel(panels[2], np.array(layer_ratios(report)) - 0.5, depth)
    plots.save(figure, file)


def draw_gains(report: Report, file: Path) -> None:
    """Write gains.png: first-order gains over the base, by layer and probe.

    Each cell is the sum over a layer's tensors, in nats a token: above 0 (green) the
    parent's task vector lowers the probe's loss. The row below the layers holds all
    tensors outside them.
    """
    names = list(report.settings.probes)
    depth = max(report.father.layers, report.mother.layers)
    grids = [
        np.array(layer_gains(model, names, depth))
        for model in (report.father, report.mother)
    ]
    most = max(float(np.abs(grid).max()) for grid in grids) or 1.0
    figure = _figure(depth + 1, 1.9 + 0.62 * len(names), panels=2)
    panels = figure.subplots(1, 2)
    for axes, grid, role in zip(panels, grids, ("Father", "Mother"), strict=True):
        image = _heat(axes, grid, depth + 1, names, "PiYG", (-most, most))
        axes.set_title(role)
        ticks = [tick for tick in axes.get_yticks() if 0 <= tick < depth]
        axes.set_yticks([*ticks, depth], [*(f"{t:g}" for t in ticks), "rest"])
    figure.colorbar(
        image,
        ax=list(panels),
        location="bottom",
        shrink=0.6,
        aspect=40,
        label="first-order gain over the base, nats a token",
    )
    plots.save(figure, file)


def _figure(depth: int, panel: float, panels: int = 3) -> Figure:
    height = min(16.0, max(4.2, 2.4 + 0.17 * depth))
    return plots.figure(panel * panels, height)


def _heat(
    axes: Axes,
    grid: Grid,
    depth: int,
    names: list[str],
    colours: str,
    limits: tuple[float, float],
) -> AxesImage:
    image = axes.imshow(
        grid,
        aspect="auto",
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    axes.set_ylim(depth - 0.5, -0.5)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(0, depth, _step(depth)))
    if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
        axes.set_ylabel("layer")
    return image


def _step(depth: int) -> int:
    return 1 if depth <= 20 else 5


def _ratio_panel(axes: Axes, deviation: Grid, depth: int) -> None:
    layers = np.arange(len(deviation))
    colours = [plots.MOTHER if value > 0 else plots.FATHER for value in deviation]
    axes.barh(layers, deviation, color=colours, height=0.8)
    reach = max(0.005, 1.15 * float(np.abs(deviation).max(initial=0.0)))
    axes.set_xlim(-reach, reach)
    axes.set_ylim(depth - 0.5, -0.5)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(0, depth, _step(depth)))
    axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
    axes.set_title("mri_ratio - 0.5")
    axes.set_xlabel("← Father      Mother →")
    axes.grid(axis="x", linewidth=0.4, alpha=0.6)


def _draw_empty(file: Path) -> None:
    figure = plots.figure(5, 2)
    figure.text(0.5, 0.5, "This scan has no probes.", ha="center", va="center")
    plots.save(figure, file)
