"""One self-contained HTML file to look at: figures by plotly, tables one can sort.

No network and no server: the plotting library's script stands inside the file. Rooms
give parts (words, figures, tables); everything that comes from outside is escaped here.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_darwin import plots
from mergekit_darwin.errors import about
from mergekit_darwin.files import write_whole

PARENTS = [[place / 4, colour] for place, colour in enumerate(plots.PARENTS)]
Cell = str | int | float | None


@dataclass(frozen=True)
class Words:
    """A paragraph, a list of lines, or both."""

    text: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows that a reader can sort by a column and filter by a word."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Figure:
    """A figure as plotly describes it: traces and layout, plain data."""

    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    height: int = 420


Part = Words | Table | Figure


def heatmap(
    grid: Sequence[Sequence[float | None]],
    across: Sequence[Cell],
    down: Sequence[Cell],
    *,
    hover: Sequence[Sequence[str]] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Return the trace of a heat map, [len(down)][len(across)], None where is nothing.

    hover: what a cell says under the pointer; without it place and number. settings
    are plotly's (colorscale, zmin, zmid, zmax, showscale, xaxis, ...).
    """
    trace: dict[str, Any] = {"type": "heatmap", "z": grid, "x": across, "y": down}
    trace |= {"xgap": 1, "ygap": 1, "hoverongaps": False, **settings}
    if hover is not None:
        trace |= {"text": hover, "hovertemplate": "%{text}<extra></extra>"}
    return trace


def write_page(path: Path, title: str, sections: Mapping[str, Sequence[Part]]) -> None:
    """Write a page whole or not at all: a title, and parts under headings.

    Raises DarwinError where plotly is missing, or path is no regular file.
    """
    with about("A page needs plotly", "pip install 'mergekit-darwin[page]'"):
        from plotly.offline import get_plotlyjs
    body, place = [], 0
    for heading, parts in sections.items():
        body.append(f"<h2>{html.escape(heading)}</h2>")
        for part in parts:
            body.append(_part(part, place))
            place += 1
    page = _PAGE.replace("@title@", html.escape(title)).replace("@style@", _STYLE)
    head, tail = page.split("@body@")
    head, after = head.split("@plotly@")
    script = get_plotlyjs().replace("</script", "<\\/script")
    write_whole(path, "".join([head, script, after, *body, tail]))


def _part(part: Part, place: int) -> str:
    if isinstance(part, Words):
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in part.lines)
        text = f"<p>{html.escape(part.text)}</p>" if part.text else ""
        return text + (f"<ul>{lines}</ul>" if lines else "")
    if isinstance(part, Table):
        return _table(part)
    spec = _json({"data": list(part.traces), "layout": _layout(part)})
    return (
        f'<div class="figure" id="figure-{place}" style="height:{part.height}px"></div>'
        f'<script type="application/json" data-figure="figure-{place}">{spec}</script>'
    )


def _layout(figure: Figure) -> dict[str, Any]:
    usual = {
        "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "height": figure.height,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#bbb"},
    }
    return {**usual, **figure.layout}


def _json(content: Any) -> str:
    """Return JSON in which no name can open or close a tag; NaN and Inf become null."""
    return json.dumps(_shown(content), ensure_ascii=True).replace("<", "\\u003c")


def _shown(content: Any) -> Any:
    """Return a figure's data with its words escaped: plotly obeys tags in them."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        templates = ("hovertemplate", "texttemplate")
        return {k: v if k in templates else _shown(v) for k, v in content.items()}
    if isinstance(content, (list, tuple)):
        return [_shown(value) for value in content]
    return html.escape(content, quote=False) if isinstance(content, str) else content


def _table(table: Table) -> str:
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    rows = "".join(
        "<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in table.rows
    )
    return (
        '<div class="table"><input type="search" placeholder="filter rows"'
        f' aria-label="filter rows"><span class="count">{len(table.rows)} rows</span>'
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></div>"
    )


def _cell(value: Cell) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, str):
        return f"<td>{html.escape(value)}</td>"
    shown = f"{value:.5g}" if isinstance(value, float) else str(value)
    return f'<td class="n" data-v="{value!r}">{shown}</td>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@title@</title><style>@style@</style><script>@plotly@</script></head>
<body><h1>@title@</h1>@body@
<script>
const narrow = () => window.innerWidth < 700;
for (const spec of document.querySelectorAll("script[data-figure]")) {
  const {data, layout} = JSON.parse(spec.textContent);
  const place = document.getElementById(spec.dataset.figure);
  if (narrow() && layout.margin) layout.margin = {...layout.margin, l: 40, r: 8};
  Plotly.newPlot(place, data, layout, {responsive: true, displaylogo: false});
}
for (const box of document.querySelectorAll(".table")) {
  const body = box.querySelector("tbody"), rows = [...body.rows];
  const key = (row, i) => {
    const cell = row.cells[i];
    return "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent;
  };
  const less = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const numbers = typeof a === "number" && typeof b === "number";
    return numbers ? a - b : String(a).localeCompare(String(b), "en", {numeric: true});
  };
  box.querySelectorAll("th").forEach((head, i) => head.addEventListener("click", () => {
    const down = head.dataset.order === "up";
    box.querySelectorAll("th").forEach(other => delete other.dataset.order);
    head.dataset.order = down ? "down" : "up";
    const empty = row => key(row, i) === "";
    rows.sort((a, b) => empty(a) || empty(b) ? less(key(a, i), key(b, i))
      : (down ? -1 : 1) * less(key(a, i), key(b, i)));
    body.append(...rows);
  }));
  const input = box.querySelector("input"), count = box.querySelector(".count");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = shown + " rows";
  });
}
</script></body></html>
"""

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1200px;
margin:0 auto;padding:16px}h1{font-size:1.5em;overflow-wrap:anywhere}
h2{font-size:1.15em;margin-top:1.6em;border-bottom:1px solid #ddd}
.figure{width:100%}.table input{padding:4px 8px;margin:8px 8px 8px 0;font:inherit}
.count{color:#666}.scroll{overflow:auto;max-height:70vh;border:1px solid #ddd}
table{border-collapse:collapse;font-size:13px;width:100%}
th{position:sticky;top:0;background:#f4f3ee;text-align:left;cursor:pointer;
user-select:none;white-space:nowrap}th,td{padding:3px 8px}
th[data-order=up]::after{content:" \\25b2"}th[data-order=down]::after{content:" \\25bc"}
td.n{text-align:right;font-variant-numeric:tabular-nums}
tbody tr:nth-child(even){background:#fafafa}tr[hidden]{display:none}
"""
