"""The pages of a scan's report and of a ratio table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergekit_darwin import page, plots
from mergekit_darwin.models.names import site_of, stack_depths
from mergekit_darwin.ratios.report_screen import layer_gains, layer_ratios
from mergekit_darwin.ratios.rules import COLUMNS, Prescription, routes_of
from mergekit_darwin.ratios.scores import report_scores
from mergekit_darwin.scan.report import Report

_COLUMNS: tuple[str, ...] = ("name", "layer", "component", "entropy F", "entropy M")
_COLUMNS += ("std F", "std M", "norm F", "norm M", "mri_ratio")
_GAIN = [[0, "#b3467b"], [0.5, "#f7f7f7"], [1, "#4d9221"]]
_ROW = 18  # pixels of a layer or of a kind of tensor


def write_scan_page(report: Report, path: Path) -> None:
    """Write the page of a report: probes, gains, mri_ratio by layer, every tensor."""
    sections: dict[str, Sequence[page.Part]] = {"Models": [_models(report)]}
    if report.father.probes:
        words = "Cosine distance of the final hidden states without the layer, [0, 2]."
        sections["What layers are for"] = [page.Words(words), _probes(report)]
        sections["mri_ratio by layer"] = [_layers(report)]
    if report.father.gain:
        words = "First-order gain over the base, nats a token; above 0 it helps."
        sections["What task vectors gain"] = [page.Words(words), _gains(report)]
    sections["Tensors"] = [_tensors(report)]
    page.write_page(path, "Scan of two parents", sections)


def write_ratio_page(rows: Sequence[Prescription], path: Path) -> None:
    """Write the page of a ratio table: a map of all tensors, and the table."""
    counts = routes_of(rows)
    told = f"{len(rows)} tensors: {counts['father']} the Father's,"
    told += f" {counts['mother']} the Mother's, {counts['blend']} blended."
    told += " Blue: towards the Father, red: towards the Mother."
    sections: dict[str, Sequence[page.Part]] = {
        "Map": [page.Words(told), *maps(rows)],
        "Table": [_table(rows)],
    }
    page.write_page(path, "Ratio of every tensor", sections)


def _table(rows: Sequence[Prescription]) -> page.Table:
    """Return the table of the rows, without columns in which no row has a value."""
    cells = [row.columns() for row in rows]
    used = [key for key in COLUMNS if any(row[key] is not None for row in cells)]
    return page.Table(tuple(used), [[row[key] for key in used] for row in cells])


def maps(rows: Sequence[Prescription]) -> list[page.Figure]:
    """Return a map a stack: layers across, kinds of tensors down, the ratio as colour.

    The colours reach as far from 0.5 as blends do. Tensors outside any layer come last.
    """
    depths = stack_depths(row.name for row in rows)
    blends = [abs(row.ratio - 0.5) for row in rows if row.route == "blend"]
    span = min(0.5, max(0.01, *blends, 0.0) if blends else 0.5)
    made = []
    for stack in sorted(depths, key=lambda name: (-depths[name], name)):
        inside = [row for row in rows if row.site.stack == stack]
        title = f"{stack}, {depths[stack]} layers"
        made.append(_map(inside, title, depths[stack], span))
    loose = [row for row in rows if row.site.layer is None]
    return [*made, _map(loose, "outside the layers", 1, span)] if loose else made


def _map(
    rows: Sequence[Prescription], title: str, depth: int, span: float
) -> page.Figure:
    kinds = list(dict.fromkeys(_kind(row) for row in rows))
    place = {(_kind(row), row.site.layer or 0): row for row in rows}
    grid: list[list[float | None]] = []
    hover: list[list[str]] = []
    for kind in kinds:
        line = [place.get((kind, layer)) for layer in range(depth)]
        grid.append([None if row is None else row.ratio for row in line])
        hover.append(["" if row is None else _told(row) for row in line])
    trace = page.heatmap(
        grid,
        list(range(depth)),
        kinds,
        hover=hover,
        colorscale=page.PARENTS,
        zmin=0.5 - span,
        zmax=0.5 + span,
    )
    layout = {
        "title": {"text": title},
        "xaxis": {"title": {"text": "layer"}, "visible": depth > 1},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
    }
    return page.Figure([trace], layout, 130 + _ROW * len(kinds))


def _kind(row: Prescription) -> str:
    site = row.site
    return site.name.removeprefix(f"{site.stack}.{site.layer}.")


def _told(row: Prescription) -> str:
    mri = "" if row.mri_ratio is None else f", mri {row.mri_ratio:.4f}"
    return f"{row.name}: ratio {row.ratio:.4f} ({row.route}){mri}"


def _models(report: Report) -> page.Words:
    rows = report.models.items()
    lines = (f"{role}: {it.model}, {len(it.tensors)} tensors" for role, it in rows)
    return page.Words(lines=tuple(lines))


def _pair(
    report: Report, grids: list[list[list[float | None]]], look: dict[str, Any]
) -> page.Figure:
    """Return the parents' heat maps side by side, layers down and probes across."""
    names = list(report.settings.probes)
    depth = max(len(grid) for grid in grids)
    look = {**look, "hovertemplate": "layer %{y}, %{x}: %{z:.6g}<extra></extra>"}
    traces = []
    for axis, grid in zip(("x", "x2"), grids, strict=True):
        down = [str(layer) for layer in range(len(grid))]
        shown = {"xaxis": axis, "showscale": axis == "x2", **look}
        traces.append(page.heatmap(grid, names, down, **shown))
    layout = {
        "xaxis": _axis("Father", 0.0),
        "xaxis2": _axis("Mother", 0.52),
        "yaxis": {"autorange": "reversed", "title": {"text": "layer"}},
    }
    return page.Figure(traces, layout, 160 + _ROW * depth)


def _axis(role: str, start: float) -> dict[str, Any]:
    return {
        "domain": [start, start + 0.48],
        "title": {"text": role, "standoff": 8},
        "automargin": True,
    }


def _probes(report: Report) -> page.Figure:
    grids: list[list[list[float | None]]] = []
    for model in (report.father, report.mother):
        columns = [model.probes[name] for name in report.settings.probes]
        grids.append([list(row) for row in zip(*columns, strict=True)])
    most = max(value or 0.0 for grid in grids for row in grid for value in row)
    return _pair(report, grids, {"colorscale": "Viridis", "zmin": 0, "zmax": most})


def _gains(report: Report) -> page.Figure:
    names = list(report.settings.probes)
    grids: list[list[list[float | None]]] = [
        [list(row) for row in layer_gains(model, names, model.layers)[:-1]]
        for model in (report.father, report.mother)
    ]
    most = max(abs(value or 0.0) for grid in grids for row in grid for value in row)
    return _pair(report, grids, {"colorscale": _GAIN, "zmin": -most, "zmax": most})


def _layers(report: Report) -> page.Figure:
    apart = [ratio - 0.5 for ratio in layer_ratios(report)]
    colours = [plots.MOTHER if value > 0 else plots.FATHER for value in apart]
    bars = {
        "type": "bar",
        "x": list(range(len(apart))),
        "y": apart,
        "marker": {"color": colours},
        "hovertemplate": "layer %{x}: %{y:+.5f}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": "layer"}},
        "yaxis": {"title": {"text": "mean mri_ratio - 0.5 (above: Mother)"}},
    }
    return page.Figure([bars], layout, 320)


def _tensors(report: Report) -> page.Table:
    rows = []
    for name, scores in report_scores(report, "published").items():
        site = site_of(name)
        left, right = report.father.tensors[name], report.mother.tensors[name]
        pairs = [
            value
            for key in ("entropy", "std", "norm")
            for value in (getattr(left, key), getattr(right, key))
        ]
        rows.append((name, site.layer, site.component, *pairs, scores.mri_ratio))
    return page.Table(_COLUMNS, rows)
