"""The table of ratios as a file: CSV or JSON, written by us and edited by people."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mergekit_darwin.errors import DarwinError, about
from mergekit_darwin.files import parse_json, read_text
from mergekit_darwin.models.names import Site
from mergekit_darwin.ratios.rules import COLUMNS, Prescription
from mergekit_darwin.ratios.scores import Scores


def table_json(rows: Iterable[Prescription]) -> str:
    """Return the rows as JSON text: a list of objects with the columns' names."""
    return json.dumps([row.columns() for row in rows], indent=1, allow_nan=False) + "\n"


def table_csv(rows: Iterable[Prescription]) -> str:
    """Return the rows as CSV text with a header; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.columns() for row in rows)
    return text.getvalue()


def read_rows(path: Path) -> list[Prescription]:
    """Return the rows of a CSV table that table_csv wrote, a merge's record say."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [_prescription(row) for row in csv.DictReader(stream)]


def _prescription(row: Mapping[str, str]) -> Prescription:
    """Return a row as the object whose columns it shows."""
    cells = {key: _cell(key, text) for key, text in row.items()}
    parts = [cells[name] for name in ("name", "stack", "layer", "component")]
    scores = None
    if cells["mri_ratio"] is not None:
        static = (cells["static_father"], cells["static_mother"])
        probe = (cells["probe_father"], cells["probe_mother"])
        known = None if probe == (None, None) else probe
        scores = Scores(static, known, cells["mri_ratio"])
    last = [cells[name] for name in ("genome_ratio", "ratio", "route")]
    return Prescription(Site(*parts), cells["block"], scores, *last)


def _cell(column: str, text: str) -> Any:
    if text == "" or column in ("name", "stack", "component", "route"):
        return text or None
    return int(text) if column in ("layer", "block") else float(text)


def read_ratios(path: str | Path) -> dict[str, float]:
    """Return ratio by tensor name from a CSV or JSON table; other columns are ignored.

    Raises DarwinError if the file cannot be read, a name occurs twice, or a ratio is
    not a number in [0, 1].
    """
    path = Path(path)
    text = read_text(path, f"ratios: cannot read {path}")
    rows = _json_rows(text, path) if path.suffix == ".json" else _csv_rows(text, path)
    ratios: dict[str, float] = {}
    for place, row in rows:
        name = row.get("name")
        if not isinstance(name, str) or not name or "ratio" not in row:
            raise DarwinError(
                f"ratios: every row needs 'name' and 'ratio'; {place} of {path} has"
                f" {sorted(map(str, row))}."
            )
        if name in ratios:
            raise DarwinError(f"ratios: {name!r} occurs twice in {path}; keep one row.")
        ratios[name] = _ratio(row["ratio"], f"{name!r} in {place} of {path}")
    if not ratios:
        raise DarwinError(f"ratios: {path} has no row; leave ratios out.")
    return ratios


def _csv_rows(text: str, path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV and where they stand. Raises DarwinError with the line.

    A row longer or shorter than the header would give a ratio to another column.
    """
    with about(f"ratios: {path} must be a CSV"):
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(lines, [])
        if not {"name", "ratio"} <= set(header) or len(set(header)) < len(header):
            raise DarwinError(
                f"ratios: {path} must be a CSV with the columns name and ratio, none"
                f" twice; its first line has {header}."
            )
        for row in lines:
            place = f"line {lines.line_num}"
            if row and len(row) != len(header):
                raise DarwinError(
                    f"ratios: {place} of {path} must have {len(header)} fields, as the"
                    f" header; it has {len(row)}."
                )
            if row:
                yield place, dict(zip(header, row, strict=True))


def _json_rows(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    with about(f"ratios: {path} must be JSON"):
        rows = parse_json(text)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DarwinError(f"ratios: {path} must be a list of objects.")
    for place, row in enumerate(rows, start=1):
        yield f"row {place}", row


def _ratio(value: object, place: str) -> float:
    try:
        odd = isinstance(value, bool) or "_" in str(value)  # 0_1 would be 1
        ratio = math.nan if odd else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        ratio = math.nan
    if not 0.0 <= ratio <= 1.0:
        raise DarwinError(
            f"ratios: the ratio of {place} must be a number in [0, 1]; got {value!r}."
        )
    return ratio
