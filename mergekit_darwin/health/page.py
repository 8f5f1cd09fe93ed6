"""The page of a health report: verdict, importance by layer, findings one can sort."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergekit_darwin import page, plots
from mergekit_darwin.health.report import NAMES, Health
from mergekit_darwin.health.thresholds import RANKS, RULES

_SCALE = [
    [0, "#eef3f0"],
    [0.33, "#cfcfcf"],
    [0.66, plots.WARNING],
    [1, plots.ERROR],
]


def write_health_page(health: Health, path: Path) -> None:
    """Write the page of a health report, whole or not at all."""
    page.write_page(path, f"Health of {health.child}", sections(health))


def sections(health: Health) -> dict[str, Sequence[page.Part]]:
    """Return the parts of the page by heading; evolve's report shows them as well."""
    counts = health.counts
    told = (
        f"{health.verdict.upper()}: {counts['errors']} errors, {counts['warnings']}"
        f" warnings, {counts['notes']} notes in {counts['tensors']} tensors."
    )
    lines = tuple(
        f"{role}: {name}"
        for role, name in (
            ("Father", health.father),
            ("Mother", health.mother),
            ("base", health.base),
        )
        if name
    )
    made: dict[str, Sequence[page.Part]] = {"Verdict": [page.Words(told, lines)]}
    if health.measured.importance.get("child"):
        made["Importance of layers"] = [_importance(health)]
    if health.findings:
        made["Findings"] = [*_by_layer(health), _findings(health)]
    return made


def _importance(health: Health) -> page.Figure:
    """Return one panel a probe: importance by layer for Father, Mother and child."""
    rows = health.measured.importance
    probes = list(rows["child"])
    half = (len(probes) + 1) // 2
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "grid": {
            "rows": (len(probes) + 1) // 2,
            "columns": 2,
            "pattern": "independent",
        },
        "legend": {"orientation": "h", "y": 1.08},
        "annotations": [],
    }
    for place, probe in enumerate(probes, start=1):
        axis = "" if place == 1 else str(place)
        for role in ("father", "mother", "child"):
            if probe in rows.get(role, {}):
                traces.append(
                    {
                        "type": "scatter",
                        "mode": "lines+markers",
                        "y": list(rows[role][probe]),
                        "name": NAMES[role],
                        "legendgroup": role,
                        "showlegend": place == 1,
                        "line": {"color": plots.ROLES[role]},
                        "xaxis": f"x{axis}",
                        "yaxis": f"y{axis}",
                        "hovertemplate": f"{role}, layer %{{x}}: %{{y:.5f}}"
                        "<extra></extra>",
                    }
                )
        layout[f"yaxis{axis}"] = {"title": {"text": probe}, "rangemode": "tozero"}
    return page.Figure(traces, layout, 120 + 210 * half)


def _by_layer(health: Health) -> list[page.Part]:
    """Return the worst finding of every rule and layer as a map."""
    placed = [item for item in health.findings if item.layer is not None]
    if not placed:
        return []
    depth = max(item.layer or 0 for item in placed) + 1
    rules = sorted({item.rule for item in placed})
    grid: list[list[float | None]] = [[0.0] * depth for _ in rules]
    hover = [["nothing found"] * depth for _ in rules]
    for item in placed:
        row, layer = rules.index(item.rule), item.layer or 0
        if RANKS[item.severity] > (grid[row][layer] or 0.0):
            grid[row][layer] = float(RANKS[item.severity])
            where = item.tensor or item.probe or "model"
            hover[row][layer] = f"layer {layer}, {where}: {item.rule} {item.found}"
    trace = page.heatmap(
        grid,
        list(range(depth)),
        rules,
        hover=hover,
        colorscale=_SCALE,
        zmin=0,
        zmax=3,
        showscale=False,
    )
    step = 1 if depth <= 32 else 5
    layout = {
        "xaxis": {"title": {"text": "layer"}, "tick0": 0, "dtick": step},
        "yaxis": {"automargin": True},
    }
    return [page.Figure([trace], layout, 140 + 24 * len(rules))]


def _findings(health: Health) -> page.Table:
    columns = ("severity", "rule", "layer", "tensor", "probe", "found", "expected")
    rows = [
        (
            item.severity,
            item.rule,
            item.layer,
            item.tensor,
            item.probe,
            item.found,
            item.expected,
            RULES[item.rule].meaning if item.rule in RULES else "",
            item.advice,
        )
        for item in health.findings
    ]
    return page.Table((*columns, "what it measures", "advice"), rows)
