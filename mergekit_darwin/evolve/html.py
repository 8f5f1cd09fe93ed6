"""report.html of a run: scores with errors, the search, ratios and health."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from mergekit_darwin import page, plots
from mergekit_darwin.evolve.compare import Comparison
from mergekit_darwin.evolve.finish import Finished
from mergekit_darwin.evolve.fitness import combined_error
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.evolve.pages import findings
from mergekit_darwin.health.page import sections as health_sections
from mergekit_darwin.ratios.page import maps
from mergekit_darwin.ratios.table import read_rows

LOG = logging.getLogger("mergekit_darwin")


def write_html(run: Finished) -> None:
    """Write RUN/report.html from what is known so far, where plotly is installed."""
    if find_spec("plotly") is None:
        LOG.info("no report.html: it needs pip install 'mergekit-darwin[page]'")
        return
    sections: dict[str, Sequence[page.Part]] = {}
    if run.notes:
        sections["First"] = [page.Words(lines=run.notes)]
    if run.table is not None:
        told = page.Words(lines=tuple(findings(run.table)))
        sections["What was gained"] = [told, _heldout(run.table)]
    if run.refits:
        sections["Refit"] = [_refits(run)]
    sections["Search"] = [_scores(run), _genome(run), _evaluations(run)]
    ratios = run.model / "darwin_ratios.csv"
    if ratios.exists():
        sections["The child's ratios"] = maps(read_rows(ratios))
    if run.health is not None:
        for heading, parts in health_sections(run.health).items():
            sections[f"Health: {heading.lower()}"] = parts
    path = run.folder / "report.html"
    page.write_page(path, "A breeding run of mergekit-darwin", sections)


def _refits(run: Finished) -> page.Table:
    columns = ("model", "search items", "general before", "general after", "verdict")
    rows = [
        (
            row.name,
            row.line.score,
            row.report.general.before,
            row.report.general.after,
            row.report.verdict + (", final" if row is run.chosen else ""),
        )
        for row in run.refits
    ]
    return page.Table(columns, rows)


def _heldout(table: Comparison) -> page.Figure:
    rows = [row for row in table.rows if row.score is not None]
    errors = [combined_error(table.tasks, row) or 0.0 for row in rows]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [row.name for row in rows],
        "x": [row.score for row in rows],
        "error_x": {"type": "data", "array": errors, "color": "#444"},
        "customdata": errors,
        "marker": {"color": [plots.ROLES.get(row.name, "#bdbdbd") for row in rows]},
        "hovertemplate": "%{y}: %{x:.4f} ± %{customdata:.4f}<extra></extra>",
    }
    layout = {
        "yaxis": {"autorange": "reversed", "automargin": True},
        "xaxis": {"title": {"text": "score on the held-out items, ± standard error"}},
    }
    return page.Figure([bars], layout, 130 + 28 * len(rows))


def _scores(run: Finished) -> page.Figure:
    numbers = list(range(1, len(run.lines) + 1))
    drawn = (
        ("measured", [line.score for line in run.lines], plots.CHILD),
        ("proxy's expectation", [line.proxy for line in run.lines], plots.OTHER),
    )
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": numbers,
            "y": values,
            "name": name,
            "marker": {"color": colour},
            "hovertemplate": "evaluation %{x}: %{y:.4f}<extra></extra>",
        }
        for name, values, colour in drawn
    ]
    traces += [_level(line, numbers) for line in run.diagnosis.family if numbers]
    layout = {
        "xaxis": {"title": {"text": "real evaluation"}},
        "yaxis": {"title": {"text": "score on the search items"}},
        "legend": {"orientation": "h", "y": 1.15},
    }
    return page.Figure(traces, layout)


def _level(line: Evaluation, numbers: Sequence[int]) -> dict[str, Any]:
    """Return a parent's or the base's score as a line across all evaluations."""
    colour = plots.ROLES.get(line.name, plots.OTHER)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [numbers[0], numbers[-1]],
        "y": [line.score, line.score],
        "name": line.name,
        "line": {"dash": "dash", "color": colour},
    }


def _genome(run: Finished) -> page.Figure:
    """Return every gene over the evaluations, as its place in the search interval."""
    space = run.diagnosis.space
    names = [gene.name for gene in space.genes]
    places = [space.encode(line.made_of) for line in run.lines]
    grid = [[float(row[i]) for row in places] for i in range(len(names))]
    hover = [
        [
            f"evaluation {number}: {name} {line.made_of[name]:.4f}"
            for number, line in enumerate(run.lines, start=1)
        ]
        for name in names
    ]
    across = list(range(1, len(places) + 1))
    look = {"colorscale": page.PARENTS, "zmin": 0, "zmax": 1}
    trace = page.heatmap(grid, across, names, hover=hover, **look)
    layout = {
        "xaxis": {"title": {"text": "real evaluation"}},
        "yaxis": {"autorange": "reversed", "automargin": True},
    }
    return page.Figure([trace], layout, 130 + 18 * len(names))


def _evaluations(run: Finished) -> page.Table:
    columns = ("number", "generation", "genome_hash", "proxy", "score", "seconds")
    rows = [
        (
            number,
            line.generation,
            line.genome_hash,
            line.proxy,
            line.score,
            round(line.seconds, 2),
            line.error,
        )
        for number, line in enumerate(run.lines, start=1)
    ]
    return page.Table((*columns, "error"), rows)
